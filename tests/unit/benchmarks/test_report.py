from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from benchmarks.report import bars, number, percentile, table, write_json

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("add", "add"),
        (12_345, "12,345"),
        (12_345.6, "12,346"),
        (43.21, "43.2"),
        (1.234, "1.23"),
        (0.0, "0.00"),
    ],
)
def test_figures_have_as_many_digits_as_they_deserve(
    value: float | str | None, text: str
) -> None:
    assert number(value) == text


def test_columns_of_a_table_line_up() -> None:
    head, rule, first, second = table(
        ["stage", "µs"], [["a", 1.5], ["longer", 100.0]]
    ).splitlines()
    assert head == "stage     µs"
    assert rule == "------  ----"
    assert first == "a       1.50"
    assert second == "longer   100"


def test_a_plot_is_xml_with_a_bar_for_each_figure_to_scale() -> None:
    drawing = bars("A & B", {"first": {"one": 10.0, "two": 5.0}}, "req/s")
    root = ET.fromstring(drawing)  # noqa: S314 - our own text
    widths = [
        float(rect.get("width", ""))
        for rect in root.iter("{http://www.w3.org/2000/svg}rect")
        if rect.get("x")
    ]
    assert widths[0] == pytest.approx(2 * widths[1])


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 0.5) == 51.0
    assert percentile(values, 0.99) == 100.0
    assert percentile([7.0], 0.99) == 7.0


def test_a_record_is_written_as_json(tmp_path: Path) -> None:
    path = tmp_path / "results" / "latest.json"
    write_json(path, {"machine": {"cpus": "2"}})
    assert json.loads(path.read_text()) == {"machine": {"cpus": "2"}}
