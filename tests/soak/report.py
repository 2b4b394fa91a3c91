"""A soak's figures: tables, JSON, and a plot of throughput with the faults marked."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from tests.history import FAULTS as COUNTERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.history import History
    from tests.soak.liveness import Felt, Struck

_WIDTH, _HEIGHT = 900, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 40, 80
_COLOURS = (
    "#d93025", "#e8710a", "#f9ab00", "#1e8e3e", "#12b5cb", "#1a73e8", "#9334e6",
    "#e52592", "#5f6368", "#795548", "#00897b", "#3949ab", "#c0ca33",
)  # fmt: skip


def rates(samples: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """Give (seconds, offsets a second) between each two samples."""
    return [
        (at, (done - before) / (at - since))
        for (since, before), (at, done) in pairwise(samples)
        if at > since
    ]


def working(samples: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Give the samples up to the last answer: what comes later is only counting."""
    done = samples[-1][1] if samples else 0
    return [sample for sample in samples if sample[1] < done] + [
        next(sample for sample in samples if sample[1] == done)
    ]


def figures_table(figures: Mapping[str, object], history: History) -> str:
    """Give the figures, then the counters, as a Markdown table."""
    counters = {name: getattr(history, name) for name in COUNTERS}
    rows = [*figures.items(), *counters.items()]
    return _table(("figure", "value"), rows)


def codes_table(history: History) -> str:
    """Say what the requests were owed, and what they were answered with."""
    rows = [
        (code, history.owed[code], history.codes[code])
        for code in sorted(history.owed | history.codes)
    ]
    return _table(("code", "owed", "answered"), rows)


def faults_table(felt: Mapping[str, Felt]) -> str:
    """Say what the lanes felt of each kind of fault."""
    head = (
        "fault", "struck", "next answer (s): median", "99 %", "worst",
        "lanes begun anew", "stood still (s): median", "worst",
    )  # fmt: skip
    return _table(head, [(name, *one) for name, one in felt.items()])


def _table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [f"| {' | '.join(map(_shown, row))} |" for row in [head, *rows]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def plot(
    title: str, samples: Sequence[tuple[float, int]], struck: Sequence[Struck]
) -> str:
    """Give an SVG: answers a second over time, and when which fault was on."""
    points = rates(samples)
    most_s = max([at for at, _ in points] + [end for _, end, _ in struck] + [1.0])
    most = max([rate for _, rate in points] + [1.0])
    names = sorted({name for _, _, name in struck})

    def x(at: float) -> float:
        return _LEFT + at / most_s * (_WIDTH - _LEFT - _RIGHT)

    def y(rate: float) -> float:
        return _HEIGHT - _BOTTOM - rate / most * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(_LEFT, 20, title, bold=True)]
    for begun, end, name in struck:
        width = max(x(end) - x(begun), 1.5)
        parts.append(
            f'<rect x="{x(begun):.1f}" y="{_TOP}" width="{width:.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}" opacity="0.35" '
            f'fill="{_COLOURS[names.index(name) % len(_COLOURS)]}"/>'
        )
    line = " ".join(f"{x(at):.1f},{y(rate):.1f}" for at, rate in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#202124"/>')
    for share in (0.0, 0.5, 1.0):
        parts.append(_text(4, y(most * share) + 4, f"{most * share:,.0f}/s"))
        parts.append(_text(x(most_s * share) - 12, _HEIGHT - _BOTTOM + 16,
                           f"{most_s * share:.0f} s"))  # fmt: skip
    for at, name in enumerate(names):
        left = _LEFT + at % 7 * 118
        top = _HEIGHT - _BOTTOM + 32 + at // 7 * 18
        colour = _COLOURS[at % len(_COLOURS)]
        parts.append(
            f'<rect x="{left}" y="{top}" width="10" height="10" fill="{colour}"/>'
        )
        parts.append(_text(left + 14, top + 9, name))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="11">\n'
        '<rect width="100%" height="100%" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{weight}>{escape(text)}</text>'


def write(
    folder: Path, name: str, document: Mapping[str, object], svg: str, tables: str
) -> None:
    """Write the three files; the tables are those of docs/reliability.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / f"{name}.svg").write_text(svg)
    (folder / f"{name}.md").write_text(tables + "\n")
