"""A request's Avro form ⇄ ``model.request``.

fastavro decodes. Before it does, a larger value's arrays are counted: fastavro makes
an object of every item, and a signed megabyte of one-byte items would hold the
worker's loop for a second. Source: docs/wire-format.md.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec
from fastavro import schemaless_reader, schemaless_writer

from stream_executor.model.errors import MalformedError
from stream_executor.model.request import (
    Bytes,
    Call,
    ExecutionRequest,
    Invocation,
    ModuleDigest,
    ModuleRef,
    RequestedLimits,
    Wasi,
)
from stream_executor.model.scalars import ValueType, pack_value, unpack
from stream_executor.wire.request_rules import (
    inline,
    named,
    refuse_too_many_arguments,
    refuse_too_many_entries,
)
from stream_executor.wire.schemas import HEADER_BYTES, header, parsed_schema

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA = "ExecutionRequest.v1"
# A value this short has too few items to matter, so it is not walked first.
_SHORT_BYTES = 4 * 1024


def decode_avro(value: bytes) -> ExecutionRequest:
    """Decode the Avro form; its values' bounds are the caller's to hold.

    Raises:
        MalformedError: it is none, something follows it, or an array has too many
            items.
        ModuleTooLargeError: its inline module is too large.
    """
    if len(value) > _SHORT_BYTES:
        _Walk(value, HEADER_BYTES).invocation()
    body = io.BytesIO(value[HEADER_BYTES:])
    try:
        plain: Any = schemaless_reader(
            body, parsed_schema(SCHEMA), return_record_name=True
        )
        trailing = body.read(1)
        request = ExecutionRequest(
            plain["request_id"],
            _module_from_avro(*plain["module"]),
            _invocation_from_avro(*plain["invocation"]),
            None
            if plain["limits"] is None
            else RequestedLimits(**_body_of(plain["limits"])),
            plain["not_after_ms"],
        )
    except MalformedError:
        raise
    except Exception as error:  # fastavro raises whatever its parts raise
        message = f"not a decodable {SCHEMA} value"
        raise MalformedError(message) from error
    if trailing:
        message = "bytes follow the request's end"
        raise MalformedError(message)
    return request


def _body_of(tagged: Any) -> Any:
    """Drop the record name that fastavro puts before a union's record."""
    return tagged[1] if isinstance(tagged, tuple) else tagged


def _module_from_avro(name: str, plain: dict[str, Any]) -> ModuleRef:
    match name.rpartition(".")[2]:
        case "ModuleName":
            return named(plain["name"], plain["version"])
        case "ModuleDigest":
            return ModuleDigest(plain["s256"])
        case _:
            return inline(plain["bytes"])


def _invocation_from_avro(name: str, plain: dict[str, Any]) -> Invocation:
    match name.rpartition(".")[2]:
        case "Call":
            refuse_too_many_arguments(len(plain["args"]))
            packed = b"".join(
                pack_value(ValueType[tag.rpartition(".")[2]], scalar["value"])
                for tag, scalar in plain["args"]
            )
            return Call(plain["function"], packed)
        case "Bytes":
            return Bytes(plain["input"])
        case _:
            most = max(len(plain["args"]), len(plain["env"]), len(plain["files"]))
            refuse_too_many_entries(most)
            return Wasi(
                tuple(plain["args"]),
                tuple((e["name"], e["value"]) for e in plain["env"]),
                plain["stdin"],
                tuple((f["path"], f["content"]) for f in plain["files"]),
            )


class _Walk:
    """Steps over a request's bytes as far as its last array; counts items."""

    def __init__(self, value: bytes, at: int) -> None:
        self._value = value
        self._at = at

    def invocation(self) -> None:
        """Step over everything up to the end of the invocation.

        Raises:
            MalformedError: an array has too many items, or the bytes end before it.
        """
        self._text()
        module = self._long()
        if module == 0:
            self._texts(2)
        elif module == 1:
            self._skip(32)
        else:
            self._text()
        kind = self._long()
        if kind == 0:
            self._text()
            self._array(refuse_too_many_arguments, self._scalar)
        elif kind != 1:
            self._array(refuse_too_many_entries, self._text)
            self._array(refuse_too_many_entries, lambda: self._texts(2))
            self._text()
            self._array(refuse_too_many_entries, lambda: self._texts(2))

    def _array(self, refuse: Callable[[int], None], item: Callable[[], None]) -> None:
        total = 0
        while count := self._long():
            if count < 0:  # the block's size in bytes follows
                count = -count
                self._long()
            total += count
            refuse(total)
            for _ in range(count):
                item()

    def _scalar(self) -> None:
        kind = self._long()
        if kind in (0, 1):
            self._long()
        else:
            self._skip(4 if kind == 2 else 8)  # noqa: PLR2004 - f32 and f64

    def _text(self) -> None:
        self._skip(self._long())

    def _texts(self, count: int) -> None:
        for _ in range(count):
            self._text()

    def _skip(self, count: int) -> None:
        self._at += count
        if count < 0 or self._at > len(self._value):
            message = "a length in the request leads out of it"
            raise MalformedError(message)

    def _long(self) -> int:
        """Read one zigzag varint."""
        result = shift = 0
        for byte in self._value[self._at : self._at + 10]:
            self._at += 1
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 1 << 7:
                return (result >> 1) ^ -(result & 1)
        message = "a number in the request has no end"
        raise MalformedError(message)


def encode_avro(request: ExecutionRequest) -> bytes:
    """Give the request's single-object Avro form."""
    limits = request.limits
    out = io.BytesIO()
    out.write(header(SCHEMA))
    schemaless_writer(
        out,
        parsed_schema(SCHEMA),
        {
            "request_id": request.request_id,
            "module": _avro_module(request.module),
            "invocation": _avro_invocation(request.invocation),
            "limits": None if limits is None else msgspec.structs.asdict(limits),
            "not_after_ms": request.not_after_ms,
        },
    )
    return out.getvalue()


def _avro_module(module: ModuleRef) -> tuple[str, dict[str, Any]]:
    name = f"wasm_executor.v1.{type(module).__name__}"
    return name, msgspec.structs.asdict(module)


def _avro_invocation(invocation: Invocation) -> tuple[str, dict[str, Any]]:
    name = f"wasm_executor.v1.{type(invocation).__name__}"
    if isinstance(invocation, Call):
        args = [
            (f"wasm_executor.v1.{value_type.name}", {"value": value})
            for value_type, value, _ in unpack(invocation.args)
        ]
        return name, {"function": invocation.function, "args": args}
    if isinstance(invocation, Bytes):
        return name, {"input": invocation.input}
    return name, {
        "args": list(invocation.args),
        "env": [{"name": n, "value": v} for n, v in invocation.env],
        "stdin": invocation.stdin,
        "files": [{"path": p, "content": c} for p, c in invocation.files],
    }
