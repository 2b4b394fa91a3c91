"""WebAssembly text to binary, on the author's own machine.

For `module publish FILE.wat` and `invoke FILE.wat`: the service itself never sees
text. Not for untrusted text: the parser is native code in this process.
"""

from __future__ import annotations

import wasmtime


def assemble(text: str) -> bytes:
    """Give the binary of a module in the text format.

    Raises:
        ValueError: the text is no module; the message shows where.
    """
    try:
        return bytes(wasmtime.wat2wasm(text))
    except wasmtime.WasmtimeError as error:
        raise ValueError(str(error)) from error
