"""ExecutionRequest: record value bytes ⇄ ``model.request``.

The first signed byte chooses the form: ``C3 01`` is single-object Avro, ``{`` is
JSON, anything else is no request. Headers have no say: they are not signed. Both
forms refuse what is unknown, repeated or trailing, so that two readers can never
see two requests in the same signed bytes.

Source: docs/wire-format.md. Not here: whether the request may run.
"""

from __future__ import annotations

import io
import json
import re
from typing import Any

import msgspec
from fastavro import schemaless_reader, schemaless_writer

from stream_executor.model.errors import MalformedError
from stream_executor.model.request import (
    MAX_INLINE_MODULE_BYTES,
    MODULE_NAME,
    MODULE_VERSION,
    REQUEST_ID,
    Bytes,
    Call,
    ExecutionRequest,
    InlineModule,
    Invocation,
    ModuleDigest,
    ModuleName,
    ModuleRef,
    RequestedLimits,
    Wasi,
)
from stream_executor.model.scalars import ValueType, pack_value, unpack
from stream_executor.wire.json_values import (
    JsonScalar,
    from_base64,
    pack_scalars,
    to_base64,
    unpack_scalars,
)
from stream_executor.wire.schemas import HEADER_BYTES, header, parsed_schema

MAX_ARGUMENTS = 1_000
MAX_FILES = 256
_SCHEMA = "ExecutionRequest.v1"
_DIGEST_PREFIX = "sha256:"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ModuleTooLargeError(MalformedError):
    """An inline module above ``MAX_INLINE_MODULE_BYTES``: module_too_large."""


class _JsonCall(
    msgspec.Struct, tag="call", tag_field="kind", forbid_unknown_fields=True, gc=False
):
    function: str
    args: list[dict[str, int | float | str]]


class _JsonBytes(
    msgspec.Struct, tag="bytes", tag_field="kind", forbid_unknown_fields=True, gc=False
):
    input: str


class _JsonWasi(
    msgspec.Struct, tag="wasi", tag_field="kind", forbid_unknown_fields=True, gc=False
):
    args: list[str] = []
    env: dict[str, str] = {}
    stdin: str = ""
    files: dict[str, str] = {}


class _JsonInline(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    inline: str


class _JsonLimits(
    msgspec.Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True
):
    fuel_units: int | None = None
    memory_bytes: int | None = None
    deadline_ms: int | None = None


class _JsonRequest(
    msgspec.Struct, forbid_unknown_fields=True, gc=False, omit_defaults=True
):
    request_id: str
    module: str | _JsonInline
    invocation: _JsonCall | _JsonBytes | _JsonWasi
    limits: _JsonLimits | None = None
    not_after_ms: int | None = None


_read_json = msgspec.json.Decoder(_JsonRequest, strict=True).decode
_write_json = msgspec.json.Encoder().encode


def decode_request(value: bytes) -> ExecutionRequest:
    """Decode a request record's value.

    Raises:
        MalformedError: the value is no valid request (``invalid_request``).
        ModuleTooLargeError: its inline module is too large (``module_too_large``).
    """
    if value[:1] == b"{":
        request = _from_json(value)
    elif value[:HEADER_BYTES] == header(_SCHEMA):
        request = _from_avro(value)
    else:
        message = (
            f"a request begins with '{{' or {header(_SCHEMA).hex()}, "
            f"this value with {value[:HEADER_BYTES].hex() or 'nothing'}"
        )
        raise MalformedError(message)
    _validate(request)
    return request


def encode_json(request: ExecutionRequest) -> bytes:
    """Give the request's JSON form."""
    limits = request.limits
    return _write_json(
        _JsonRequest(
            request.request_id,
            _json_module(request.module),
            _json_invocation(request.invocation),
            None
            if limits is None
            else _JsonLimits(
                limits.fuel_units, limits.memory_bytes, limits.deadline_ms
            ),
            request.not_after_ms,
        )
    )


def encode_avro(request: ExecutionRequest) -> bytes:
    """Give the request's single-object Avro form."""
    limits = request.limits
    out = io.BytesIO()
    out.write(header(_SCHEMA))
    schemaless_writer(
        out,
        parsed_schema(_SCHEMA),
        {
            "request_id": request.request_id,
            "module": _avro_module(request.module),
            "invocation": _avro_invocation(request.invocation),
            "limits": None if limits is None else msgspec.structs.asdict(limits),
            "not_after_ms": request.not_after_ms,
        },
    )
    return out.getvalue()


def request_id_of(value: bytes) -> str | None:
    """Give the request id of a value that will not run, if it decodes at all."""
    try:
        return decode_request(value).request_id
    except MalformedError:
        return None


def parse_module_name(text: str) -> ModuleRef:
    """Read ``name@version`` or ``sha256:<64 hex digits>``.

    Raises:
        MalformedError: neither of the two.
    """
    known = _MODULE_REFS.get(text)
    if known is not None:
        return known
    ref: ModuleRef
    if text.startswith(_DIGEST_PREFIX):
        digits = text.removeprefix(_DIGEST_PREFIX)
        if not _DIGEST.fullmatch(digits):
            message = "a module digest is 'sha256:' and 64 lower hex digits"
            raise MalformedError(message)
        ref = ModuleDigest(bytes.fromhex(digits))
    else:
        name, _, version = text.partition("@")
        ref = _named(name, version)
    if len(_MODULE_REFS) >= _REMEMBERED_REFS:
        _MODULE_REFS.clear()
    _MODULE_REFS[text] = ref
    return ref


# The same few names come with every request; parsing one anew costs a microsecond.
_REMEMBERED_REFS = 1024
_MODULE_REFS: dict[str, ModuleRef] = {}


def _from_json(value: bytes) -> ExecutionRequest:
    try:
        plain = _read_json(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(str(error)[:256]) from error
    if value.count(b'"') != _fewest_quotes(plain) or b"\\" in value:
        _refuse_duplicate_names(value)
    asked = plain.invocation
    invocation: Invocation
    if type(asked) is _JsonCall:
        invocation = Call(asked.function, pack_scalars(asked.args))
    elif type(asked) is _JsonBytes:
        invocation = Bytes(from_base64(asked.input))
    else:
        assert type(asked) is _JsonWasi  # noqa: S101 - the decoder's own union
        invocation = Wasi(
            tuple(asked.args),
            tuple(asked.env.items()),
            from_base64(asked.stdin),
            tuple((path, from_base64(c)) for path, c in asked.files.items()),
        )
    module = plain.module
    limits = plain.limits
    return ExecutionRequest(
        plain.request_id,
        parse_module_name(module)
        if isinstance(module, str)
        else _inline(_inline_bytes(module.inline)),
        invocation,
        None
        if limits is None
        else RequestedLimits(
            limits.fuel_units, limits.memory_bytes, limits.deadline_ms
        ),
        plain.not_after_ms,
    )


def _inline_bytes(text: str) -> bytes:
    if len(text) > MAX_INLINE_MODULE_BYTES * 4 // 3 + 4:
        message = f"an inline module has at most {MAX_INLINE_MODULE_BYTES} bytes"
        raise ModuleTooLargeError(message)
    return from_base64(text)


def _inline(module: bytes) -> InlineModule:
    if len(module) > MAX_INLINE_MODULE_BYTES:
        message = f"an inline module has at most {MAX_INLINE_MODULE_BYTES} bytes"
        raise ModuleTooLargeError(message)
    return InlineModule(module)


def _fewest_quotes(plain: _JsonRequest) -> int:
    """Count the quotes that this request needs if every name occurs once.

    A proof that no name is repeated, for a third of a parse: without a backslash
    quotes only delimit strings; every name that shaped ``plain`` occurs at least
    once; a repeated or defaulted one adds quotes. So an equal count means no
    repetition, and an unequal count only means a closer look. Wasi requests always
    take the closer look: their names are the requester's.
    """
    asked = plain.invocation
    if type(asked) is _JsonCall:
        quotes = 6 + 2 * len(asked.args)
        for scalar in asked.args:
            for given in scalar.values():
                if type(given) is str:
                    quotes += 2
    elif type(asked) is _JsonBytes:
        quotes = 4
    else:
        return -1
    quotes += 4 + (4 if isinstance(plain.module, str) else 6) + 6
    limits = plain.limits
    if limits is not None:
        given_limits = (limits.fuel_units, limits.memory_bytes, limits.deadline_ms)
        quotes += 2 + 2 * (3 - given_limits.count(None))
    return quotes + (2 if plain.not_after_ms is not None else 0)


def _refuse_duplicate_names(value: bytes) -> None:
    def names_once(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) != len(pairs):
            message = "a name occurs twice in one JSON object"
            raise MalformedError(message)

    try:
        json.loads(value, object_pairs_hook=names_once)
    except (ValueError, RecursionError) as error:
        message = "not a JSON text"
        raise MalformedError(message) from error


def _from_avro(value: bytes) -> ExecutionRequest:
    body = io.BytesIO(value[HEADER_BYTES:])
    try:
        plain: Any = schemaless_reader(
            body, parsed_schema(_SCHEMA), return_record_name=True
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
        message = f"not a decodable {_SCHEMA} value"
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
            return _named(plain["name"], plain["version"])
        case "ModuleDigest":
            return ModuleDigest(plain["s256"])
        case _:
            return _inline(plain["bytes"])


def _invocation_from_avro(name: str, plain: dict[str, Any]) -> Invocation:
    match name.rpartition(".")[2]:
        case "Call":
            packed = b"".join(
                pack_value(ValueType[tag.rpartition(".")[2]], scalar["value"])
                for tag, scalar in plain["args"]
            )
            return Call(plain["function"], packed)
        case "Bytes":
            return Bytes(plain["input"])
        case _:
            return Wasi(
                tuple(plain["args"]),
                tuple((e["name"], e["value"]) for e in plain["env"]),
                plain["stdin"],
                tuple((f["path"], f["content"]) for f in plain["files"]),
            )


def _json_module(module: ModuleRef) -> str | _JsonInline:
    if isinstance(module, ModuleName):
        return str(module)
    if isinstance(module, ModuleDigest):
        return _DIGEST_PREFIX + module.s256.hex()
    return _JsonInline(to_base64(module.bytes))


def _json_invocation(invocation: Invocation) -> _JsonCall | _JsonBytes | _JsonWasi:
    if isinstance(invocation, Call):
        args: list[JsonScalar] = unpack_scalars(invocation.args)
        return _JsonCall(invocation.function, args)
    if isinstance(invocation, Bytes):
        return _JsonBytes(to_base64(invocation.input))
    return _JsonWasi(
        list(invocation.args),
        dict(invocation.env),
        to_base64(invocation.stdin),
        {path: to_base64(content) for path, content in invocation.files},
    )


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


def _validate(request: ExecutionRequest) -> None:
    """Hold the bounds that both forms share."""
    if not REQUEST_ID.fullmatch(request.request_id):
        message = f"request_id does not match {REQUEST_ID.pattern}"
        raise MalformedError(message)
    invocation = request.invocation
    if isinstance(invocation, Call):
        _validate_text("function", invocation.function, 256)
        if len(invocation.args) > MAX_ARGUMENTS * 9:
            message = f"a call has at most {MAX_ARGUMENTS} arguments"
            raise MalformedError(message)
    elif isinstance(invocation, Wasi):
        _validate_wasi(invocation)
    _validate_limits(request)


def _validate_limits(request: ExecutionRequest) -> None:
    limits = request.limits
    if limits is not None:
        for name in ("fuel_units", "memory_bytes", "deadline_ms"):
            asked = getattr(limits, name)
            if asked is not None and not 0 < asked < 1 << 62:
                message = f"limits.{name} is a positive number"
                raise MalformedError(message)
    not_after = request.not_after_ms
    if not_after is not None and not 0 < not_after < 1 << 62:
        message = "not_after_ms is milliseconds since 1970 UTC"
        raise MalformedError(message)


def _named(name: str, version: str) -> ModuleName:
    if not (MODULE_NAME.fullmatch(name) and MODULE_VERSION.fullmatch(version)):
        message = (
            f"a module is named {MODULE_NAME.pattern}@{MODULE_VERSION.pattern}, "
            "or sha256:<digest>"
        )
        raise MalformedError(message)
    return ModuleName(name, version)


def _validate_text(what: str, text: str, most: int) -> None:
    if not 0 < len(text) <= most or "\0" in text:
        message = f"{what} has 1 to {most} characters and no NUL"
        raise MalformedError(message)


def _validate_wasi(wasi: Wasi) -> None:
    counts = (len(wasi.args), len(wasi.env), len(wasi.files))
    if max(counts) > MAX_FILES:
        message = f"a command has at most {MAX_FILES} args, env variables and files"
        raise MalformedError(message)
    for text in wasi.args:
        if "\0" in text:
            message = "an argument holds a NUL"
            raise MalformedError(message)
    for name, value in wasi.env:
        _validate_text("an env name", name, 256)
        if "=" in name or "\0" in value:
            message = "an env name holds '=', or its value a NUL"
            raise MalformedError(message)
    for path, _ in wasi.files:
        _validate_text("a file's path", path, 256)
        parts = path.split("/")
        if parts[0] or not all(parts[1:]) or not {".", ".."}.isdisjoint(parts):
            message = "a file's path is absolute and has no empty, '.' or '..' part"
            raise MalformedError(message)
    if len({p for p, _ in wasi.files}) != len(wasi.files) or len(
        {n for n, _ in wasi.env}
    ) != len(wasi.env):
        message = "a file or env variable is given twice"
        raise MalformedError(message)
