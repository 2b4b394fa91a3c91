from __future__ import annotations

import math

import pytest

from stream_executor.client.errors import ArgumentError
from stream_executor.client.values import (
    Argument,
    Scalar,
    f32,
    f64,
    i32,
    i64,
    pack_arguments,
    parse_argument,
    unpack_typed,
    unpack_values,
)


def test_plain_numbers_are_i32_and_f64_and_the_rest_says_its_type() -> None:
    arguments: list[Argument] = [2, True, 0.5, i32(-1), ("i64", 5), f32(0.5), f64(1)]
    typed = unpack_typed(pack_arguments(arguments))
    assert [kind for kind, _ in typed] == [
        "i32", "i32", "f64", "i32", "i64", "f32", "f64",
    ]  # fmt: skip
    assert [value for _, value in typed] == [2, 1, 0.5, -1, 5, 0.5, 1.0]
    assert unpack_values(pack_arguments([i64(1 << 40)])) == [1 << 40]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (1 << 31, "i64"),
        (i64(1 << 63), "does not fit i64"),
        (("u8", 1), "u8"),
        ("2", "got str"),
        (("i32", "2"), "got str"),
        (("i32", 1.5), "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_sent(
    argument: Argument, words: str
) -> None:
    with pytest.raises(ArgumentError, match=words):
        pack_arguments([argument])


@pytest.mark.parametrize(
    ("text", "scalar"),
    [
        ("i32:2", i32(2)),
        ("i32:-0x10", i32(-16)),
        ("i64:9000000000", i64(9_000_000_000)),
        ("f64:-0.5", f64(-0.5)),
        ("f32:inf", f32(math.inf)),
        ("f32:0x3f800000", f32(1.0)),
    ],
)
def test_arguments_of_the_command_line(text: str, scalar: Scalar) -> None:
    assert parse_argument(text) == scalar


def test_a_number_out_of_range_says_so() -> None:
    with pytest.raises(ArgumentError, match="does not fit i32, which has 32 bits"):
        parse_argument("i32:3000000000")
    with pytest.raises(ArgumentError, match="like i64:5"):
        parse_argument("5")


@pytest.mark.parametrize("text", ["2", "i32", "i8:2", "i32:x", "i32:2.5", "i32:1e99"])
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_argument(text)
