"""Building requests: what a caller writes becomes one ``ExecutionRequest``."""

from __future__ import annotations

import itertools
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from stream_executor.client.errors import ArgumentError
from stream_executor.client.values import Argument, pack_arguments
from stream_executor.model.errors import MalformedError
from stream_executor.model.request import (
    MAX_INLINE_MODULE_BYTES,
    REQUEST_ID,
    Bytes,
    Call,
    ExecutionRequest,
    InlineModule,
    Invocation,
    ModuleRef,
    RequestedLimits,
    Wasi,
)
from stream_executor.wire.requests import encode_avro, encode_json, parse_module_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Module: TypeAlias = "str | bytes | Path | ModuleRef"
"""``name@version``, ``sha256:<hex>``, or inline: the module's bytes or its file."""

_WASM = b"\0asm"
# One random prefix a process and a counter: unique, and 20 times cheaper than a UUID.
_PREFIX = secrets.token_hex(8)
_COUNTER = itertools.count(1)
_AVRO_FROM_BYTES = 1024


def call(
    module: Module,
    function: str,
    args: Sequence[Argument] = (),
    *,
    request_id: str | None = None,
    limits: RequestedLimits | None = None,
    start_within_s: float | None = None,
) -> ExecutionRequest:
    """Ask for a call of an exported function with typed scalars.

    Args:
        module: see ``Module``.
        function: name of the export.
        args: see ``client.values``: a plain int is an i32, a plain float an f64.
        request_id: your own id (``[A-Za-z0-9._:-]{1,64}``); made up if None. Not
            unique by itself: a request is known by its place on the topic.
        limits: lower limits than the deployment's.
        start_within_s: answer ``not_after_passed`` instead of starting later than
            this many seconds from now, by the worker's clock.

    Raises:
        ArgumentError: something cannot be sent; nothing was.
    """
    return build(
        module, Call(function, pack_arguments(args)), request_id, limits, start_within_s
    )


def transform(
    module: Module,
    data: bytes,
    *,
    request_id: str | None = None,
    limits: RequestedLimits | None = None,
    start_within_s: float | None = None,
) -> ExecutionRequest:
    """Ask for bytes in, bytes out, through the module's ``alloc`` and ``run``.

    Args and errors: as ``call``.
    """
    return build(module, Bytes(bytes(data)), request_id, limits, start_within_s)


def command(
    module: Module,
    argv: Sequence[str] = (),
    *,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
    request_id: str | None = None,
    limits: RequestedLimits | None = None,
    start_within_s: float | None = None,
) -> ExecutionRequest:
    """Ask for a run of a WASI preview 1 command.

    Args:
        module: see ``Module``.
        argv: arguments; the first is the program's own name, by convention.
        stdin: standard input.
        env: environment variables.
        files: read-only files by absolute path.
        request_id: as for ``call``.
        limits: as for ``call``.
        start_within_s: as for ``call``.

    Raises:
        ArgumentError: something cannot be sent; nothing was.
    """
    wasi = Wasi(
        tuple(argv),
        tuple((env or {}).items()),
        bytes(stdin),
        tuple((files or {}).items()),
    )
    return build(module, wasi, request_id, limits, start_within_s)


def build(
    module: Module,
    invocation: Invocation,
    request_id: str | None,
    limits: RequestedLimits | None,
    start_within_s: float | None,
) -> ExecutionRequest:
    """Put a request together; the rest of its bounds are the executor's to hold."""
    if request_id is None:
        request_id = f"{_PREFIX}-{next(_COUNTER)}"
    elif not REQUEST_ID.fullmatch(request_id):
        raise ArgumentError(
            f"request_id: expected {REQUEST_ID.pattern}, got {request_id[:64]!r}"
        )
    not_after_ms = None
    if start_within_s is not None:
        not_after_ms = int((time.time() + start_within_s) * 1000)
    return ExecutionRequest(
        request_id, _reference(module), invocation, limits, not_after_ms
    )


def encode(request: ExecutionRequest) -> bytes:
    """Give the record value: JSON, which people can read, unless bytes weigh in it.

    Base64 costs a third in size and a pass over the data; Avro carries bytes as they
    are. JSON is also the form that keeps the bits of every NaN.
    """
    invocation = request.invocation
    carried = 0
    if type(invocation) is Bytes:
        carried = len(invocation.input)
    elif type(invocation) is Wasi:
        carried = len(invocation.stdin) + sum(len(c) for _, c in invocation.files)
    if type(request.module) is InlineModule:
        carried += len(request.module.bytes)
    return (encode_avro if carried >= _AVRO_FROM_BYTES else encode_json)(request)


def _reference(module: Module) -> ModuleRef:
    if isinstance(module, Path):
        path = module
        try:
            module = path.read_bytes()
        except OSError as error:
            raise ArgumentError(f"module {path}: {error.strerror}") from error
    if isinstance(module, str):
        try:
            return parse_module_name(module)
        except MalformedError as error:
            raise ArgumentError(f"module {module[:64]!r}: {error}") from error
    if not isinstance(module, bytes):
        return module
    if not module.startswith(_WASM):
        raise ArgumentError(
            "an inline module is a WebAssembly binary and begins 00 61 73 6d, "
            f"this one {bytes(module[:4]).hex(' ')!r}"
        )
    if len(module) > MAX_INLINE_MODULE_BYTES:
        raise ArgumentError(
            f"an inline module has at most {MAX_INLINE_MODULE_BYTES} bytes, this one "
            f"{len(module)}; publish it with `wasm-executor module publish`"
        )
    return InlineModule(module)
