"""What both forms of a request hold to: names, bounds, and the errors that say so.

Source: docs/wire-format.md.
"""

from __future__ import annotations

import re

from stream_executor.model.errors import MalformedError
from stream_executor.model.request import (
    DIGEST_PREFIX,
    MAX_INLINE_MODULE_BYTES,
    MODULE_NAME,
    MODULE_VERSION,
    REQUEST_ID,
    Call,
    ExecutionRequest,
    InlineModule,
    ModuleDigest,
    ModuleName,
    ModuleRef,
    Wasi,
)

MAX_ARGUMENTS = 1_000
# Each of a command's arguments, environment variables and files.
MAX_ENTRIES = 256
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ModuleTooLargeError(MalformedError):
    """An inline module above ``MAX_INLINE_MODULE_BYTES``: module_too_large."""


def parse_module_name(text: str) -> ModuleRef:
    """Read ``name@version`` or ``sha256:<64 hex digits>``.

    Raises:
        MalformedError: neither of the two.
    """
    known = _MODULE_REFS.get(text)
    if known is not None:
        return known
    ref: ModuleRef
    if text.startswith(DIGEST_PREFIX):
        digits = text.removeprefix(DIGEST_PREFIX)
        if not _DIGEST.fullmatch(digits):
            message = "a module digest is 'sha256:' and 64 lower hex digits"
            raise MalformedError(message)
        ref = ModuleDigest(bytes.fromhex(digits))
    else:
        name, _, version = text.partition("@")
        ref = named(name, version)
    if len(_MODULE_REFS) >= _REMEMBERED_REFS:
        _MODULE_REFS.clear()
    _MODULE_REFS[text] = ref
    return ref


# The same few names come with every request; parsing one anew costs a microsecond.
_REMEMBERED_REFS = 1024
_MODULE_REFS: dict[str, ModuleRef] = {}


def inline(module: bytes) -> InlineModule:
    """Give the inline module of these bytes.

    Raises:
        ModuleTooLargeError: they are too many.
    """
    if len(module) > MAX_INLINE_MODULE_BYTES:
        message = f"an inline module has at most {MAX_INLINE_MODULE_BYTES} bytes"
        raise ModuleTooLargeError(message)
    return InlineModule(module)


def named(name: str, version: str) -> ModuleName:
    """Give the module of this name and version.

    Raises:
        MalformedError: one of them is none.
    """
    if not (MODULE_NAME.fullmatch(name) and MODULE_VERSION.fullmatch(version)):
        message = (
            f"a module is named {MODULE_NAME.pattern}@{MODULE_VERSION.pattern}, "
            "or sha256:<digest>"
        )
        raise MalformedError(message)
    return ModuleName(name, version)


def refuse_too_many_arguments(count: int) -> None:
    """Hold the bound on a call's arguments, before anything is done for each.

    Raises:
        MalformedError: there are more than ``MAX_ARGUMENTS``.
    """
    if count > MAX_ARGUMENTS:
        message = f"a call has at most {MAX_ARGUMENTS} arguments"
        raise MalformedError(message)


def refuse_too_many_entries(count: int) -> None:
    """Hold the bound on a command's arguments, variables or files, likewise.

    Raises:
        MalformedError: there are more than ``MAX_ENTRIES``.
    """
    if count > MAX_ENTRIES:
        message = f"a command has at most {MAX_ENTRIES} args, env variables and files"
        raise MalformedError(message)


def validate(request: ExecutionRequest) -> None:
    """Hold the bounds on a decoded request's values.

    Raises:
        MalformedError: one of them is not held.
    """
    if not REQUEST_ID.fullmatch(request.request_id):
        message = f"request_id does not match {REQUEST_ID.pattern}"
        raise MalformedError(message)
    invocation = request.invocation
    if isinstance(invocation, Call):
        _validate_text("function", invocation.function, 256)
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


def _validate_text(what: str, text: str, most: int) -> None:
    if not 0 < len(text) <= most or "\0" in text:
        message = f"{what} has 1 to {most} characters and no NUL"
        raise MalformedError(message)


def _validate_wasi(wasi: Wasi) -> None:
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
