"""The bytes of a JWS: canonical base64url segments and strict JSON objects.

Everything here is fed by strangers before any signature was verified, so each
function either gives a value or raises ``MalformedError``, in time linear in its
input, without recursion in proportion to it. What a header or a claim *means* is
not decided here (``claims``), nor whether a signature holds (``keys``).

Source: RFC 7515 section 2 (base64url), RFC 8259 (JSON), RFC 7493 section 2.3 (no
duplicate names).
"""

from __future__ import annotations

import binascii
import json
import math
import re

from stream_executor.model.errors import MalformedError

MAX_DEPTH = 4
MAX_STRUCTURE = 256
"""Most brackets and commas of one segment: bounds what a stranger makes us parse."""

# A standard-alphabet decoder reads base64url after this translation; the four
# characters that only the standard form has become one that no decoder takes.
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/***")
_TO_URL = bytes.maketrans(b"+/", b"-_")
_PADDING = (b"", b"*", b"==", b"=")
# The last character of a segment whose length is 2 or 3 modulo 4 carries unused
# bits; canonical means that they are zero. Indexed by length modulo 4; a length of
# 1 modulo 4 cannot occur, and no segment of ours may be empty.
_LAST = (
    frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
    frozenset(b""),
    frozenset(b"AQgw"),
    frozenset(b"AEIMQUYcgkosw048"),
)

# A string without its closing quote swallows the rest, so that no input makes the
# search start over at each quote; ``json`` refuses such a text anyway.
_NO_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[^]{}[,"]+')


def encode_segment(data: bytes) -> bytes:
    """Encode as unpadded base64url (ASCII bytes)."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL)


def decode_segment(segment: bytes) -> bytes:
    """Decode one non-empty, unpadded, canonical base64url segment.

    Exactly one text decodes to each value: padding, white space, the standard
    alphabet and set unused bits are refused, so that ``encode_segment`` gives the
    same bytes back.

    Raises:
        MalformedError: anything else.
    """
    remainder = len(segment) & 3
    if not segment or segment[-1] not in _LAST[remainder]:
        raise MalformedError("a token segment is not canonical base64url")
    try:
        return binascii.a2b_base64(
            segment.translate(_TO_STANDARD) + _PADDING[remainder], strict_mode=True
        )
    except binascii.Error as error:
        raise MalformedError("a token segment is not canonical base64url") from error


def is_canonical(segment: bytes) -> bool:
    """Tell whether ``decode_segment`` takes the segment."""
    try:
        decode_segment(segment)
    except MalformedError:
        return False
    return True


def parse_object(
    raw: bytes, *, max_structure: int = MAX_STRUCTURE
) -> dict[str, object]:
    """Parse one JSON object strictly.

    Refused: anything but UTF-8 without a byte order mark, more than ``MAX_DEPTH``
    levels or ``max_structure`` brackets and commas, a name that occurs twice in one
    object (after unescaping), NaN, infinities and numbers that overflow to them.

    Raises:
        MalformedError: anything else than such an object.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("a JSON object is not UTF-8") from error
    _validate_structure(text, max_structure)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except ValueError as error:  # JSONDecodeError, or an integer of 4,300 digits
        raise MalformedError("what should be a JSON object is not JSON") from error
    if not isinstance(value, dict):
        raise MalformedError("what should be a JSON object is another value")
    return value


def _validate_structure(text: str, max_structure: int) -> None:
    """Bound depth and size before ``json`` (which recurses) sees the text.

    Sound also for texts that are no JSON: up to the first error of the parser both
    see the same strings, and the parser goes no deeper after it.
    """
    structure = _NO_STRUCTURE.sub("", text)
    if len(structure) > max_structure:
        raise MalformedError("a JSON object has too many members")
    depth = 0
    for mark in structure:
        if mark in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedError("a JSON object is nested too deeply")
        elif mark in "}]":
            depth -= 1


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedError("a name occurs twice in one JSON object")
    return members


def _refuse_constant(name: str) -> object:
    raise MalformedError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise MalformedError("a number is out of range")
    return number
