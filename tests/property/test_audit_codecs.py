"""Every audit and control codec against fastavro: equal bytes, one encoding, no other.

The strategies are made from the schemas, so a new field or record is tested as soon
as it exists.
"""

from __future__ import annotations

import io
from typing import Any, get_type_hints

import msgspec
import pytest
from fastavro import schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_executor.model.control import ResumeOrdered as Resumes
from stream_executor.model.errors import MalformedError
from stream_executor.model.record import Range
from stream_executor.wire.avro import (
    CODECS,
    KINDS,
    class_of,
    decode,
    encode,
    signed_part,
    signing_tag,
)
from stream_executor.wire.schemas import (
    HEADER_BYTES,
    header,
    parsed_schema,
    raw_schema,
    schema_digests,
    schema_texts,
)

_LONGS = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-70, 70)
_INTS = st.integers(-(1 << 31), (1 << 31) - 1)
_TEXT = st.text(max_size=20)
KEY = bytes(32)
CLASSES = sorted(CODECS, key=lambda cls: cls.__name__)


def attribute(field: dict[str, Any]) -> str:
    name: str = field["name"]
    return "from_" if name == "from" else name


def values(  # noqa: PLR0911 - one return a schema kind
    schema: Any, hint: Any, named: dict[str, Any]
) -> st.SearchStrategy[Any]:
    """Give model values of one schema."""
    if isinstance(schema, str):
        if schema in named:
            return values(named[schema], hint, named)
        return {
            "long": _LONGS,
            "int": _INTS,
            "boolean": st.booleans(),
            "string": _TEXT,
            "bytes": st.binary(max_size=40),
        }[schema]
    if isinstance(schema, list):
        inner = next(h for h in hint.__args__ if h is not type(None))
        return st.none() | values(schema[1], inner, named)
    kind = schema["type"]
    if kind in {"fixed", "enum", "record"}:
        named[schema["name"]] = schema
    if kind == "fixed":
        return st.binary(min_size=schema["size"], max_size=schema["size"])
    if kind == "enum":
        symbols: list[str] = schema["symbols"]
        if hint is int:
            return st.integers(0, len(symbols) - 1)
        return st.sampled_from(symbols)
    if kind == "array":
        items = values(schema["items"], hint.__args__[0], named)
        return st.lists(items, max_size=3)
    hints = get_type_hints(hint)
    return st.builds(
        hint,
        *[
            values(field["type"], hints[attribute(field)], named)
            for field in schema["fields"]
        ],
    )


def plain(  # noqa: PLR0911 - one return a schema kind
    value: Any, schema: Any, named: dict[str, Any]
) -> Any:
    """Give a model value as fastavro wants it."""
    if isinstance(schema, str):
        return plain(value, named[schema], named) if schema in named else value
    if isinstance(schema, list):
        if value is None:
            _learn(schema[1], named)
            return None
        return plain(value, schema[1], named)
    kind = schema["type"]
    if kind in {"fixed", "enum", "record"}:
        named[schema["name"]] = schema
    if kind == "enum":
        return schema["symbols"][value] if isinstance(value, int) else value
    if kind == "array":
        _learn(schema["items"], named)
        return [plain(item, schema["items"], named) for item in value]
    if kind == "record":
        return {
            field["name"]: plain(getattr(value, attribute(field)), field["type"], named)
            for field in schema["fields"]
        }
    return value


def _learn(schema: Any, named: dict[str, Any]) -> None:
    """Remember the names that a schema defines, where no value walks through it."""
    if isinstance(schema, list):
        for branch in schema:
            _learn(branch, named)
    elif isinstance(schema, dict):
        if schema["type"] in {"fixed", "enum", "record"}:
            named[schema["name"]] = schema
        for field in schema.get("fields", ()):
            _learn(field["type"], named)
        if schema["type"] == "array":
            _learn(schema["items"], named)


def schema_of(cls: type) -> dict[str, Any]:
    return raw_schema(f"{cls.__name__}.v1")


def records(cls: type) -> st.SearchStrategy[Any]:
    return values(schema_of(cls), cls, {})


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_writer_gives_fastavros_bytes_and_reads_them_back(cls: type) -> None:
    @given(records(cls))
    @settings(max_examples=60)
    def check(value: msgspec.Struct) -> None:
        out = io.BytesIO()
        name = f"{cls.__name__}.v1"
        schemaless_writer(out, parsed_schema(name), plain(value, schema_of(cls), {}))
        written = encode(value)
        assert written == header(name) + out.getvalue()
        assert decode(written) == value
        assert class_of(written) is cls

    check()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_values_have_one_encoding_and_nothing_follows(cls: type) -> None:
    @given(records(cls), st.data())
    @settings(max_examples=40)
    def check(value: msgspec.Struct, data: st.DataObject) -> None:
        written = encode(value)
        for bad in (written + b"\0", written[:-1], written[:HEADER_BYTES], b""):
            with pytest.raises(MalformedError):
                decode(bad)
        at = data.draw(st.integers(0, len(written) * 8 - 1))
        flipped = bytearray(written)
        flipped[at // 8] ^= 1 << at % 8
        try:
            other = decode(bytes(flipped))
        except MalformedError:
            return
        assert other != value, "two encodings of one value"

    check()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_model_fields_are_the_schemas_in_order(cls: type) -> None:
    def same(schema: dict[str, Any], model: type) -> None:
        fields = [attribute(field) for field in schema["fields"]]
        assert fields == list(get_type_hints(model))

    same(schema_of(cls), cls)


@given(st.binary(max_size=300), st.sampled_from(CLASSES))
@settings(max_examples=500)
def test_any_bytes_decode_or_are_malformed(junk: bytes, cls: type) -> None:
    for value in (junk, CODECS[cls].header + junk):
        try:
            decoded = decode(value)
        except MalformedError:
            continue
        assert encode(decoded) == value


def test_a_huge_array_count_costs_nothing() -> None:
    """A claimed count of 2^62 items must end at the bytes that are there."""
    order = Resumes(0, bytes(32), 0, bytes(16), 0, 0, 0, bytes(32), [], [], [], "", KEY)
    one = msgspec.structs.replace(order, lost=[Range(0, 0)])
    written, longer = encode(order), encode(one)
    at = next(i for i, (a, b) in enumerate(zip(written, longer, strict=False)) if a - b)
    huge = b"\xfe" + b"\xff" * 8 + b"\x01"
    with pytest.raises(MalformedError):
        decode(written[:at] + huge + bytes(100))


def test_every_schema_has_its_class_or_its_own_codec() -> None:
    own = {"ExecutionRequest.v1", "ExecutionResult.v1", "Module.v1"}
    assert {codec.name for codec in CODECS.values()} | own == set(schema_texts())
    assert set(schema_digests()) == set(schema_texts())


def test_headers_and_domain_tags_tell_every_kind_apart() -> None:
    assert len({codec.header for codec in CODECS.values()}) == len(CODECS)
    assert len({signing_tag(kind) for kind in KINDS.values()}) == len(KINDS)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_signature_covers_every_byte_but_itself(cls: type) -> None:
    if "signature" not in cls.__struct_fields__:  # type: ignore[attr-defined]
        return
    assert schema_of(cls)["fields"][-1]["name"] == "signature"

    @given(records(cls))
    @settings(max_examples=10)
    def check(value: msgspec.Struct) -> None:
        written = encode(value)
        tag = signing_tag(KINDS[cls])
        assert signed_part(written) == tag + written[:-64]

    check()
