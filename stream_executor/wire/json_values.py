"""How single values look in JSON: bytes and scalars.

Bytes are padded canonical base64. An i64 is written as a string and read as string
or number; a float is a number, or its bits as "0x…" where JSON has no number for it
(NaN, infinities, minus zero). Source: docs/wire-format.md.
"""

from __future__ import annotations

import binascii
import math
import re
import struct
from functools import partial

from stream_executor.model.errors import MalformedError
from stream_executor.model.scalars import (
    NAMES,
    SCALAR_BYTES,
    TYPES,
    ValueType,
    pack_bits,
    pack_value,
    unpack,
)

JsonScalar = dict[str, int | float | str]
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,19})")
_BITS = re.compile(r"0x[0-9a-f]{1,16}")
_FLOATS = (ValueType.F32, ValueType.F64)


def to_base64(data: bytes) -> str:
    """Give padded base64 (RFC 4648 section 4)."""
    return binascii.b2a_base64(data, newline=False).decode()


def from_base64(text: str) -> bytes:
    """Read padded canonical base64.

    Raises:
        MalformedError: any other spelling, so that one value has one text.
    """
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        message = "bytes are not padded base64"
        raise MalformedError(message) from error
    if to_base64(data) != text:
        message = "base64 is not in its canonical spelling"
        raise MalformedError(message)
    return data


# The ordinary argument, a JSON integer for an integer parameter, in one C call.
_INTEGERS = {
    "i32": partial(struct.Struct("<Bi4x").pack, ValueType.I32),
    "i64": partial(struct.Struct("<Bq").pack, ValueType.I64),
}


def pack_scalars(scalars: list[JsonScalar]) -> bytes:
    """Pack ``[{"i32": 2}, …]`` into ``model.scalars``' form.

    Raises:
        MalformedError: not exactly one known type a value, or out of its range.
    """
    parts = []
    for scalar in scalars:
        if len(scalar) != 1:
            message = 'an argument is one object with one type, like {"i32": 2}'
            raise MalformedError(message)
        ((name, value),) = scalar.items()
        try:
            if type(value) is int and name in _INTEGERS:
                parts.append(_INTEGERS[name](value))
            else:
                parts.append(_pack(name, value))
        except (struct.error, ValueError) as error:
            message = f"{str(value)[:32]} does not fit {name[:16]}"
            raise MalformedError(message) from error
    return b"".join(parts)


def _pack(name: str, value: float | str) -> bytes:
    value_type = TYPES.get(name)
    if value_type is None:
        message = f"unknown value type {name[:16]!r}: i32, i64, f32 or f64"
        raise MalformedError(message)
    if isinstance(value, str):
        if value_type in _FLOATS and _BITS.fullmatch(value):
            return pack_bits(value_type, int(value, 16))
        if value_type not in _FLOATS and _DECIMAL.fullmatch(value):
            return pack_value(value_type, int(value))
        message = f"{value[:24]!r} is no {NAMES[value_type]}"
        raise ValueError(message)
    packed = pack_value(value_type, value)
    if value_type in _FLOATS and not math.isfinite(unpack(packed)[0][1]):
        message = f"a number too large for {NAMES[value_type]}; infinities are bits"
        raise ValueError(message)
    return packed


def unpack_scalars(packed: bytes) -> list[JsonScalar]:
    """Give packed scalars as ``[{"i32": 5}, …]``; the inverse of ``pack_scalars``."""
    if len(packed) == SCALAR_BYTES and packed[0] == ValueType.I32:
        return [{"i32": int.from_bytes(packed[1:5], "little", signed=True)}]
    return [
        {NAMES[value_type]: _json_number(value_type, value, bits)}
        for value_type, value, bits in unpack(packed)
    ]


def _json_number(value_type: ValueType, value: float, bits: int) -> int | float | str:
    if value_type is ValueType.I32:
        return value
    if value_type is ValueType.I64:
        return str(value)
    if math.isfinite(value) and not (value == 0 and bits):
        return value
    return f"0x{bits:x}"
