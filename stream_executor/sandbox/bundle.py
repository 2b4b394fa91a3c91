"""Files in a module: custom sections that make a WASI command's read-only files.

One section a file, named ``SECTION``: the path (length as LEB128, UTF-8), then the
file's bytes to the section's end. They are module bytes like any other, so the
module's digest names them. Reading them is ``inspect``'s, which knows their names
before anything compiles; this is the other direction.

Source: docs/adr/0020; WebAssembly core specification 5.5.3 (custom sections).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_executor.sandbox.inspect import BUNDLE_SECTION, inspect_module

if TYPE_CHECKING:
    from collections.abc import Mapping

_CUSTOM = 0
_LEB_BITS = 7


def bundle(module: bytes, files: Mapping[str, bytes]) -> bytes:
    """Give the module with more files in it, in the mapping's order.

    Args:
        module: a WebAssembly binary, possibly with files already.
        files: content by absolute path.

    Raises:
        MalformedError: the module is none, or a path is not absolute and plain, or is
            there already.
    """
    inspect_module(module)  # so that the error below is about the files
    bundled = module + b"".join(
        bytes([_CUSTOM])
        + _vector(_vector(BUNDLE_SECTION) + _vector(path.encode()) + content)
        for path, content in files.items()
    )
    inspect_module(bundled)
    return bundled


def _vector(content: bytes) -> bytes:
    """Give bytes with their length before them, as LEB128."""
    length, out = len(content), bytearray()
    while length >> _LEB_BITS:
        out.append(length & 0x7F | 0x80)
        length >>= _LEB_BITS
    out.append(length)
    return bytes(out) + content
