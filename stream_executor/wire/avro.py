"""Audit and control values: single-object Avro bytes ⇄ ``model`` values.

Encoding is a writer generated once at import from the ``.avsc`` (one expression a
field; a general writer costs several microseconds a record), held to fastavro byte
for byte by a property test. Decoding is fastavro's, then strict: trailing bytes and
every encoding but the one that the writer gives are refused, so that equal values
have equal bytes and a digest of bytes is a digest of the value.

Not here: requests and results, which have a JSON form too.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, get_type_hints

import msgspec
from fastavro import schemaless_reader

from stream_executor.model import audit, control
from stream_executor.model.errors import MalformedError
from stream_executor.model.job import Limits
from stream_executor.model.record import Range
from stream_executor.wire.schemas import (
    HEADER_BYTES,
    header,
    parsed_schema,
    raw_schema,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# The words that a signature covers; also the event kinds that tools print.
KINDS: dict[type, str] = {
    audit.Genesis: "genesis",
    audit.LaneAcquired: "lane.acquired",
    audit.LaneReleased: "lane.released",
    audit.Context: "context",
    audit.AttemptStarted: "attempt.started",
    audit.RequestExecuted: "request.executed",
    audit.RequestRefused: "request.refused",
    audit.Resumed: "resumed",
    audit.Seal: "seal",
    control.ControlGenesis: "control.genesis",
    control.KeyEnrolled: "key.enrolled",
    control.KeyRetired: "key.retired",
    control.ModulePublished: "module.published",
    control.ModuleRevoked: "module.revoked",
    control.DenyAdded: "deny.added",
    control.DenyRemoved: "deny.removed",
    control.ResumeOrdered: "resume.ordered",
}
_NESTED: dict[str, type] = {
    "Principal": audit.Principal,
    "SchemaDigest": audit.SchemaDigest,
    "EffectiveLimits": Limits,
    "Range": Range,
}
SIGNATURE_BYTES = 64
T = TypeVar("T", bound=msgspec.Struct)
_REMEMBERED_LONGS = 16_384
_REMEMBERED_STRINGS = 1_024
# String fields whose values repeat from event to event.
_REPEATING = frozenset(
    {"iss", "sub", "role", "kid", "key_id", "function", "module_name"}
)


def varint(value: int) -> bytes:
    """Encode an Avro long: zigzag, then seven bits a byte, low bits first."""
    if not -(1 << 63) <= value < 1 << 63:
        message = f"{value} does not fit an Avro long"
        raise ValueError(message)
    rest = (value << 1) ^ (value >> 63)
    if rest < 1 << 7:
        return bytes((rest,))
    if rest < 1 << 14:
        return bytes((rest & 0x7F | 0x80, rest >> 7))
    if rest < 1 << 21:
        return bytes((rest & 0x7F | 0x80, rest >> 7 & 0x7F | 0x80, rest >> 14))
    out = bytearray()
    while rest >= 1 << 7:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


class Longs(dict[int, bytes]):
    """Avro longs already encoded: times, limits, counts repeat from event to event."""

    def __missing__(self, value: int) -> bytes:
        if len(self) >= _REMEMBERED_LONGS:
            self.clear()
        encoded = self[value] = varint(value)
        return encoded


class Strings(dict[str, bytes]):
    """Names already encoded, with their lengths: the same few come with each event."""

    def __missing__(self, value: str) -> bytes:
        if len(self) >= _REMEMBERED_STRINGS:
            self.clear()
        data = value.encode()
        encoded = self[value] = varint(len(data)) + data
        return encoded


def _wrong_size(value: bytes, size: int) -> bytes:
    message = f"a fixed({size}) field got {len(value)} bytes"
    raise ValueError(message)


class _Generator:
    """Turns one schema into the source of one writer function.

    Every field becomes an expression that gives its bytes; nested records are
    expanded in place. Names in the generated source: ``L`` encoded longs, ``S``
    encoded names, ``X`` the fixed-size complaint, ``H`` the header.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        self.named: dict[str, Any] = {}
        self.scope: dict[str, Any] = {
            "L": Longs(),
            "S": Strings(),
            "X": _wrong_size,
        }
        self.schema = schema
        self.count = 0

    def writer(self, cls: type, prefix: bytes) -> Callable[[Any], bytes]:
        self.scope["H"] = prefix
        body = ", ".join(self.record(self.schema, cls, "r"))
        return self.define("r", f"b''.join((H, {body},))")

    def define(self, argument: str, expression: str) -> Callable[[Any], bytes]:
        source = f"def write({argument}):\n    return {expression}\n"
        scope = dict(self.scope)
        exec(compile(source, "<avro writer>", "exec"), scope)  # noqa: S102 - our own text, from our own schema files
        return cast("Callable[[Any], bytes]", scope["write"])

    def fresh(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def record(self, schema: dict[str, Any], cls: type, at: str) -> list[str]:
        self.named[schema["name"]] = schema
        hints = get_type_hints(cls)
        parts: list[str] = []
        for field in schema["fields"]:
            name = field["name"] + ("_" if field["name"] == "from" else "")
            parts += self.value(field["type"], f"{at}.{name}", hints[name])
        return parts

    def value(self, schema: Any, at: str, hint: Any) -> list[str]:  # noqa: PLR0911 - one return a schema kind
        if isinstance(schema, str):
            if schema in self.named:
                return self.value(self.named[schema], at, hint)
            return self.primitive(schema, at)
        if isinstance(schema, list):
            return [self.optional(schema, at, hint)]
        kind = schema["type"]
        if kind == "fixed":
            self.named[schema["name"]] = schema
            size = schema["size"]
            v = self.fresh()
            return [f"{v} if len({v} := {at}) == {size} else X({v}, {size})"]
        if kind == "enum":
            self.named[schema["name"]] = schema
            if hint is int:
                return self.primitive("long", at)
            table = f"E{len(self.scope)}"
            self.scope[table] = {s: varint(i) for i, s in enumerate(schema["symbols"])}
            return [f"{table}[{at}]"]
        if kind == "array":
            return [self.array(schema["items"], at, hint)]
        v = self.fresh()
        first, *rest = self.record(schema, _NESTED[schema["name"]], v)
        # The nested value is looked up once, before the first field's bytes.
        return [f"(({v} := {at}), {first})[1]", *rest]

    def primitive(self, schema: str, at: str) -> list[str]:
        if schema in ("long", "int"):
            return [f"L[{at}]"]
        if schema == "boolean":
            return [f"b'\\x01' if {at} else b'\\x00'"]
        if schema == "string" and at.rpartition(".")[2] in _REPEATING:
            return [f"S[{at}]"]
        if schema in ("string", "bytes"):
            data = f"{at}.encode()" if schema == "string" else at
            v = self.fresh()
            return [f"L[len({v} := {data})]", v]
        message = f"no writer for Avro type {schema}"
        raise NotImplementedError(message)

    def part(self, schema: Any, hint: Any) -> str:
        """Define a function for one value and give its name in the scope."""
        body = ", ".join(self.value(schema, "x", hint))
        name = f"P{len(self.scope)}"
        self.scope[name] = self.define("x", f"b''.join(({body},))")
        return name

    def optional(self, schema: list[Any], at: str, hint: Any) -> str:
        inner = next(h for h in hint.__args__ if h is not type(None))
        name = self.part(schema[1], inner)
        v = self.fresh()
        return f"b'\\x00' if ({v} := {at}) is None else b'\\x02' + {name}({v})"

    def array(self, items: Any, at: str, hint: Any) -> str:
        """One block, then the end: the only form that we write."""
        name = self.part(items, hint.__args__[0])
        v = self.fresh()
        block = f"L[len({v})] + b''.join(map({name}, {v})) + b'\\x00'"
        return f"{block} if ({v} := {at}) else b'\\x00'"


def _builder(schema: Any, hint: Any, named: dict[str, Any]) -> Callable[[Any], Any]:
    """Give the function that turns fastavro's plain value into the model's."""
    if isinstance(schema, str):
        return _builder(named[schema], hint, named) if schema in named else _same
    if isinstance(schema, list):
        inner_hint = next(h for h in hint.__args__ if h is not type(None))
        inner = _builder(schema[1], inner_hint, named)
        return lambda value: None if value is None else inner(value)
    kind = schema["type"]
    if kind in ("enum", "fixed"):
        named[schema["name"]] = schema
        if kind == "enum" and hint is int:
            return {s: i for i, s in enumerate(schema["symbols"])}.__getitem__
        return _same
    if kind == "array":
        item = _builder(schema["items"], hint.__args__[0], named)
        return lambda value: [item(v) for v in value]
    named[schema["name"]] = schema
    return _record_builder(schema, _NESTED[schema["name"]], named)


def _same(value: Any) -> Any:
    return value


def _record_builder(
    schema: dict[str, Any], cls: type, named: dict[str, Any]
) -> Callable[[Any], Any]:
    named[schema["name"]] = schema
    hints = get_type_hints(cls)
    steps = []
    for field in schema["fields"]:
        name = field["name"] + ("_" if field["name"] == "from" else "")
        steps.append((field["name"], _builder(field["type"], hints[name], named)))
    return lambda value: cls(*[build(value[name]) for name, build in steps])


class Codec(Generic[T]):
    """Bytes ⇄ value of one record class."""

    def __init__(self, cls: type[T]) -> None:
        self.name = f"{cls.__name__}.v1"
        self.header = header(self.name)
        self._schema = parsed_schema(self.name)
        schema = raw_schema(self.name)
        self.encode: Callable[[T], bytes] = _Generator(schema).writer(cls, self.header)
        self._build = _record_builder(schema, cls, {})

    def decode(self, value: bytes) -> T:
        """Give the value of exactly these bytes.

        Raises:
            MalformedError: not this schema's header, not decodable, or not the one
                encoding that ``encode`` gives (so trailing bytes are refused too).
        """
        if value[:HEADER_BYTES] != self.header:
            message = f"not a {self.name} value: it begins {value[:10].hex()}"
            raise MalformedError(message)
        try:
            plain = schemaless_reader(io.BytesIO(value[HEADER_BYTES:]), self._schema)
            decoded = cast("T", self._build(plain))
            same = self.encode(decoded) == value
        except Exception as error:  # fastavro raises whatever its parts raise
            message = f"not a decodable {self.name} value of {len(value)} bytes"
            raise MalformedError(message) from error
        if not same:
            message = f"not the canonical encoding of a {self.name} value"
            raise MalformedError(message)
        return decoded


CODECS: dict[type, Codec[Any]] = {cls: Codec(cls) for cls in KINDS}
_BY_HEADER: dict[bytes, type] = {c.header: cls for cls, c in CODECS.items()}


def encode(value: msgspec.Struct) -> bytes:
    """Give the bytes of an audit or control value."""
    return CODECS[type(value)].encode(value)


def class_of(value: bytes) -> type | None:
    """Give the record class that these bytes name, or None if it is not known."""
    return _BY_HEADER.get(value[:HEADER_BYTES])


def decode(value: bytes) -> msgspec.Struct:
    """Decode whatever known record these bytes are.

    Raises:
        MalformedError: an unknown schema or bytes that are not canonical.
    """
    cls = class_of(value)
    if cls is None:
        message = f"unknown schema: the value begins {value[:10].hex()}"
        raise MalformedError(message)
    return cast("msgspec.Struct", CODECS[cls].decode(value))


def signed_part(value: bytes) -> bytes:
    """Give what the signature at the end of a signed record's bytes covers.

    The kind and version are part of it, so a signature for one kind of record can
    never be taken for another's (docs/wire-format.md).
    """
    cls = _BY_HEADER[value[:HEADER_BYTES]]
    return signing_tag(KINDS[cls]) + value[:-SIGNATURE_BYTES]


def signing_tag(kind: str) -> bytes:
    """Give the domain tag of one kind of signed record."""
    return f"wasm-executor/{kind}/v1\n".encode()
