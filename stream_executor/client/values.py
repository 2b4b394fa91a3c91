"""Python values as WebAssembly scalars, and back.

A plain ``int`` (or ``bool``) is an i32 and a plain ``float`` an f64: the two that
most modules take. Everything else says its type: ``i64(5)``, ``f32(0.5)``, or a pair
``("i64", 5)``. Nothing is guessed from a value's size, so that the same call never
changes its types with its data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from stream_executor.client.errors import ArgumentError
from stream_executor.model.scalars import (
    NAMES,
    TYPES,
    ValueType,
    pack_bits,
    pack_value,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_FLOATS = (ValueType.F32, ValueType.F64)


class Scalar(NamedTuple):
    """A value with its WebAssembly type: ``i32``, ``i64``, ``f32`` or ``f64``."""

    type: str
    value: float


Argument: TypeAlias = "Scalar | tuple[str, int | float] | int | float"


def i32(value: int) -> Scalar:
    """Give a signed 32-bit integer."""
    return Scalar("i32", value)


def i64(value: int) -> Scalar:
    """Give a signed 64-bit integer."""
    return Scalar("i64", value)


def f32(value: float) -> Scalar:
    """Give a 32-bit float (rounded to the nearest)."""
    return Scalar("f32", value)


def f64(value: float) -> Scalar:
    """Give a 64-bit float."""
    return Scalar("f64", value)


def pack_arguments(arguments: Iterable[Argument]) -> bytes:
    """Pack arguments into ``model.scalars``' form.

    Raises:
        ArgumentError: an unknown type, or a value that does not fit its type.
    """
    return b"".join([_pack(argument) for argument in arguments])


def parse_argument(text: str) -> Scalar:
    """Read ``TYPE:VALUE`` as the command line has it, like ``i32:2`` or ``f64:-0.5``.

    A float may also be its bits (``f32:0x7fc00000``), ``inf``, ``-inf`` or ``nan``.

    Raises:
        ArgumentError: another form, an unknown type, or a value that does not fit.
    """
    name, separator, value = text.partition(":")
    value_type = TYPES.get(name)
    if not separator or value_type is None:
        raise ArgumentError(
            "expected TYPE:VALUE with i32, i64, f32 or f64, like i64:5, "
            f"got {text[:64]!r}"
        )
    try:
        if value_type in _FLOATS:
            number: float = (
                unpack(pack_bits(value_type, int(value, 16)))[0][1]
                if value.startswith("0x")
                else float(value)
            )
        else:
            number = int(value, 0)
    except ValueError as error:
        raise ArgumentError(f"{value[:64]!r} is no {name}") from error
    try:
        pack_value(value_type, number)
    except ValueError as error:
        bits = name[1:]
        wide = "" if value_type in _FLOATS else f", which has {bits} bits and a sign"
        raise ArgumentError(f"{value[:64]} does not fit {name}{wide}") from error
    return Scalar(name, number)


def unpack_values(packed: bytes) -> list[int | float]:
    """Give packed scalars as Python numbers, in order."""
    return [value for _, value, _ in unpack(packed)]


def unpack_typed(packed: bytes) -> list[Scalar]:
    """Give packed scalars with their types, in order."""
    return [Scalar(NAMES[kind], value) for kind, value, _ in unpack(packed)]


def _pack(argument: Argument) -> bytes:
    value: Any  # callers without a type checker give anything
    name: Any
    if isinstance(argument, tuple):
        name, value = argument
    elif isinstance(argument, int):
        name, value = "i32", argument
    elif isinstance(argument, float):
        name, value = "f64", argument
    else:
        raise ArgumentError(
            f"expected a number, i64(5) or ('i64', 5), got {type(argument).__name__}"
        )
    value_type = TYPES.get(name) if isinstance(name, str) else None
    if value_type is None:
        raise ArgumentError(f"expected i32, i64, f32 or f64, got {str(name)[:64]!r}")
    if not isinstance(value, int | float):
        raise ArgumentError(f"expected a number, got {type(value).__name__}")
    try:
        return pack_value(value_type, value)
    except ValueError as error:
        hint = "; say i64(…) for a larger integer" if value_type is TYPES["i32"] else ""
        raise ArgumentError(f"{error}{hint}") from error
