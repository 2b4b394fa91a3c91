"""A request's JSON form ⇄ ``model.request``.

Names that are unknown or repeated are refused, so that two readers can never see two
requests in the same signed bytes. Source: docs/wire-format.md.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from stream_executor.model.errors import MalformedError
from stream_executor.model.request import (
    DIGEST_PREFIX,
    MAX_INLINE_MODULE_BYTES,
    Bytes,
    Call,
    ExecutionRequest,
    Invocation,
    ModuleDigest,
    ModuleName,
    ModuleRef,
    RequestedLimits,
    Wasi,
)
from stream_executor.wire.json_values import (
    JsonScalar,
    from_base64,
    pack_scalars,
    to_base64,
    unpack_scalars,
)
from stream_executor.wire.request_rules import (
    ModuleTooLargeError,
    inline,
    parse_module_name,
    refuse_too_many_arguments,
    refuse_too_many_entries,
)


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


def decode_json(value: bytes) -> ExecutionRequest:
    """Decode the JSON form; its values' bounds are the caller's to hold.

    Raises:
        MalformedError: it is none.
        ModuleTooLargeError: its inline module is too large.
    """
    try:
        plain = _read_json(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(str(error)[:256]) from error
    asked = plain.invocation
    if isinstance(asked, _JsonCall):
        refuse_too_many_arguments(len(asked.args))
    elif isinstance(asked, _JsonWasi):
        refuse_too_many_entries(max(len(asked.args), len(asked.env), len(asked.files)))
    if value.count(b'"') != _fewest_quotes(plain) or b"\\" in value:
        _refuse_duplicate_names(value)
    invocation: Invocation
    if isinstance(asked, _JsonCall):
        invocation = Call(asked.function, pack_scalars(asked.args))
    elif isinstance(asked, _JsonBytes):
        invocation = Bytes(from_base64(asked.input))
    else:
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
        else inline(_inline_bytes(module.inline)),
        invocation,
        None
        if limits is None
        else RequestedLimits(
            limits.fuel_units, limits.memory_bytes, limits.deadline_ms
        ),
        plain.not_after_ms,
    )


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


def _inline_bytes(text: str) -> bytes:
    if len(text) > MAX_INLINE_MODULE_BYTES * 4 // 3 + 4:
        message = f"an inline module has at most {MAX_INLINE_MODULE_BYTES} bytes"
        raise ModuleTooLargeError(message)
    return from_base64(text)


def _fewest_quotes(plain: _JsonRequest) -> int:
    """Count the quotes that this request needs if every name occurs once.

    A proof that no name is repeated, for a third of a parse: without a backslash
    quotes only delimit strings; every name that shaped ``plain`` occurs at least
    once; a repeated or defaulted one adds quotes. So an equal count means no
    repetition, and an unequal count only means a closer look. Wasi requests always
    take the closer look: their names are the requester's.
    """
    asked = plain.invocation
    if isinstance(asked, _JsonCall):
        quotes = 6 + 2 * len(asked.args)
        for scalar in asked.args:
            for given in scalar.values():
                if type(given) is str:
                    quotes += 2
    elif isinstance(asked, _JsonBytes):
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


def _json_module(module: ModuleRef) -> str | _JsonInline:
    if isinstance(module, ModuleName):
        return str(module)
    if isinstance(module, ModuleDigest):
        return DIGEST_PREFIX + module.s256.hex()
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
