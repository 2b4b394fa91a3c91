"""Typed WebAssembly scalars in their packed form.

A scalar is nine bytes: the value type's WebAssembly binary code, then the value's
64-bit little-endian bits (32-bit values are zero-extended). Arguments travel from
admission to the guest, and results back, as the plain concatenation of these; the
audit digests are taken over the same bytes. NaN bits are kept as they are.

Source: WebAssembly core specification 5.3.1 (value type codes).
"""

from __future__ import annotations

import struct
from enum import IntEnum

SCALAR_BYTES = 9


class ValueType(IntEnum):
    """The four value types that a call may take and give; others are refused."""

    I32 = 0x7F
    I64 = 0x7E
    F32 = 0x7D
    F64 = 0x7C


NAMES: dict[ValueType, str] = {t: t.name.lower() for t in ValueType}
TYPES: dict[str, ValueType] = {n: t for t, n in NAMES.items()}

_PACKERS = {
    ValueType.I32: struct.Struct("<Bi4x"),
    ValueType.I64: struct.Struct("<Bq"),
    ValueType.F32: struct.Struct("<Bf4x"),
    ValueType.F64: struct.Struct("<Bd"),
}
_BITS32 = struct.Struct("<BI4x")
_BITS64 = struct.Struct("<BQ")


def pack_value(value_type: ValueType, value: float) -> bytes:
    """Pack one value.

    Raises:
        ValueError: the value does not fit the type (32- and 64-bit integers are
            signed: an unsigned value above the maximum is refused, not wrapped).
    """
    try:
        return _PACKERS[value_type].pack(value_type, value)
    except (struct.error, OverflowError) as error:
        message = f"{value!r} does not fit {NAMES[value_type]}"
        raise ValueError(message) from error


def pack_bits(value_type: ValueType, bits: int) -> bytes:
    """Pack raw bits of a float (or any scalar); the exact way to give a NaN.

    Raises:
        ValueError: the bits do not fit the type's width.
    """
    packer = _BITS32 if value_type in (ValueType.I32, ValueType.F32) else _BITS64
    try:
        return packer.pack(value_type, bits)
    except struct.error as error:
        message = f"0x{bits:x} does not fit {NAMES[value_type]}"
        raise ValueError(message) from error


def unpack(packed: bytes) -> list[tuple[ValueType, int | float, int]]:
    """Give (type, value, raw bits) of each packed scalar, in order.

    Raises:
        ValueError: the length is no multiple of nine or a type code is unknown.
    """
    if len(packed) % SCALAR_BYTES:
        message = f"{len(packed)} bytes are no whole number of scalars"
        raise ValueError(message)
    values = []
    for at in range(0, len(packed), SCALAR_BYTES):
        value_type = ValueType(packed[at])
        _, value = _PACKERS[value_type].unpack_from(packed, at)
        _, bits = _BITS64.unpack_from(packed, at)
        values.append((value_type, value, bits))
    return values
