"""The process that compiles one module and ends.

Compiling is the weakest point of the whole sandbox: a few kilobytes can ask for
gigabytes and minutes, and nothing inside a process interrupts it. So it happens
here: memory and CPU time are limited, the parent's clock kills, and since a process
compiles exactly one module, whatever a module does to it dies with it.

Order: read the shape (our parser), validate, compile, serialize to the descriptor
that came with the order, the module's own files behind the code.

Not here: the parent's half (``compile``).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket

import msgspec

from stream_executor.model.codes import Code
from stream_executor.model.errors import MalformedError
from stream_executor.sandbox import protocol
from stream_executor.sandbox.child import Inbox, fail
from stream_executor.sandbox.engine import (
    MAX_TABLE_ELEMENTS,
    MAX_TABLES,
    Engine,
    config_s256,
)
from stream_executor.sandbox.harden import lock_down
from stream_executor.sandbox.inspect import BundledFile, inspect_module
from stream_executor.sandbox.native import Native
from stream_executor.sandbox.outcome import escape
from stream_executor.sandbox.probe import compile_module

NICE = 10


def compile_order(  # noqa: PLR0911 - one return a refusal
    engine: Engine, data: bytes, artefact_fd: int
) -> protocol.Compiled:
    """Compile a module into a descriptor; any refusal is a value."""
    try:
        shape = inspect_module(data)
    except MalformedError as error:
        return refused(Code.INVALID_WASM, str(error))
    native = engine.native
    buffer = ctypes.create_string_buffer(data, len(data))
    text = native.take_error(
        native.quick.module_validate(
            engine.address, ctypes.addressof(buffer), len(data)
        )
    )
    if text:
        return refused(Code.INVALID_WASM, f"the engine refuses it: {text}")
    if shape.tables > MAX_TABLES or shape.table_elements > MAX_TABLE_ELEMENTS:
        return refused(Code.MEMORY_LIMIT, "the module's tables are too large")
    packed = msgspec.msgpack.encode(shape)
    if len(packed) > protocol.MAX_SHAPE_BYTES:
        return refused(Code.COMPILE_LIMIT, "the module has too many or long names")
    text, vec = compile_module(native, engine, data)
    if text:
        return refused(Code.COMPILE_LIMIT, f"the engine gives up: {text}")
    try:
        code = (ctypes.c_char * vec.size).from_address(vec.data or 0)
        size = _write(artefact_fd, memoryview(code).cast("B"))
        bundle = []
        for file in shape.bundle:  # behind the code, where the shape says
            bundle.append(BundledFile(file.path, size, file.length))
            content = memoryview(data)[file.at : file.at + file.length]
            size += _write(artefact_fd, content)
    except OSError:  # EFBIG: the file size limit
        return refused(Code.COMPILE_LIMIT, "the compiled module is too large")
    packed = msgspec.msgpack.encode(msgspec.structs.replace(shape, bundle=bundle))
    return protocol.Compiled(None, "", size, packed)


def refused(code: Code, message: str) -> protocol.Compiled:
    """Give a refusal; the text may hold names from the module and is escaped."""
    return protocol.Compiled(code, escape(message), 0, b"")


def _write(fd: int, content: memoryview) -> int:
    at = 0
    while at < len(content):
        at += os.write(fd, content[at:])
    return at


def serve(link: socket.socket) -> None:
    """Lock down, say hello, compile one module, answer."""
    inbox = Inbox(link)
    bodies = inbox.bodies()
    config = protocol.decode_config(next(bodies))
    os.nice(NICE)  # guests of others come first
    engine = Engine(Native(), config.max_stack_bytes, parallel=True)
    applied = lock_down(config)
    hello = protocol.Hello(applied, config_s256(config.max_stack_bytes))
    link.sendall(protocol.frame(hello))
    for body in bodies:
        order = protocol.decode_compile_order(body)
        module_fd, artefact_fd = inbox.fds.popleft(), inbox.fds.popleft()
        with mmap.mmap(module_fd, order.size, access=mmap.ACCESS_COPY) as module:
            data = bytes(module)
        link.sendall(protocol.frame(compile_order(engine, data, artefact_fd)))
        return


def main(socket_fd: int, _page_fd: int) -> None:
    """Entry of the process; never returns."""
    try:
        serve(socket.socket(fileno=socket_fd))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except BaseException as error:  # noqa: BLE001 - the boundary of the process
        fail("the compile child failed", error)
    os._exit(0)
