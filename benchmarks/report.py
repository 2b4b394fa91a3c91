"""Figures as text, as JSON and as one plot; no library draws it.

Not here: measuring.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Cell = str | float | int | None
_TEN: Final = 10
_HUNDRED: Final = 100

# The plot's measures, in user units.
_LEFT, _RIGHT, _TOP, _ROW, _BAR = 190, 90, 34, 26, 18
_WIDTH, _GAP = 640, 30
_COLOURS: Final = ("#9aa0a6", "#1a73e8", "#12b5cb", "#e8710a")


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Give a text table: the first column to the left, the others to the right."""
    texts = [list(columns), *([number(cell) for cell in row] for row in rows)]
    widths = [max(len(text[i]) for text in texts) for i in range(len(columns))]
    lines = []
    for text in texts:
        first, *others = text
        cells = [first.ljust(widths[0])]
        cells += [t.rjust(w) for t, w in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def number(value: Cell) -> str:
    """Give a figure with as many digits as it deserves."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= _HUNDRED:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= _TEN else f"{value:.2f}"


def bars(title: str, groups: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Give an SVG of horizontal bars.

    Args:
        title: above everything.
        groups: group name to bars, each its label and length; one scale for all.
        unit: of the lengths, behind each figure.
    """
    most = max(v for group in groups.values() for v in group.values()) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / most
    labels = list(dict.fromkeys(label for group in groups.values() for label in group))
    parts: list[str] = []
    y = _TOP + _GAP
    for name, group in groups.items():
        parts.append(_text(_LEFT - 8, y + 4, name, "end", bold=True))
        y += _ROW - _BAR // 2
        for label, value in group.items():
            colour = _COLOURS[labels.index(label) % len(_COLOURS)]
            width = max(value * scale, 1.0)
            parts.append(
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" '
                f'fill="{colour}"/>'
            )
            parts.append(_text(_LEFT - 8, y + _BAR - 5, label, "end"))
            end = _LEFT + width + 6
            parts.append(_text(end, y + _BAR - 5, f"{number(value)} {unit}", "start"))
            y += _ROW
        y += _GAP - _ROW + _BAR
    head = _text(12, _TOP - 12, title, "start", bold=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" '
        f'viewBox="0 0 {_WIDTH} {y}" font-family="sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{head}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}"{weight}>'
        f"{escape(text)}</text>"
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest value that so large a share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write a document as JSON, readable and in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
