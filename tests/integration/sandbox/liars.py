"""Children that break the protocol; started in the place of real ones by tests.

Each behaves well up to hello and then does what ``argv``-less processes can: the lie
is chosen by what the first order holds (a job's function), or is the compile lie.
"""

from __future__ import annotations

import os
import socket
import time

import msgspec

from stream_executor.model.job import Report
from stream_executor.sandbox import protocol
from stream_executor.sandbox.child import Inbox
from stream_executor.sandbox.engine import config_s256
from stream_executor.sandbox.inspect import ModuleShape

GOOD = Report(output=b"\x7f\x01\0\0\0\0\0\0\0", fuel_consumed=1)


def _reply(number: int, report: Report | None = None, **changes: object) -> bytes:
    reports = [report or GOOD]
    reply = protocol.Reply(number, 0, reports, done=True, cpu_ns=1)
    return protocol.frame(msgspec.structs.replace(reply, **changes))


def lies(batch: protocol.Batch) -> bytes:
    """Give what the liar answers to a batch."""
    number = batch.number
    return {
        "garbage": b"\xff" * 64,
        "long": (2**32 - 1).to_bytes(4, "little"),
        "no_msgpack": b"\3\0\0\0\xc1\xc1\xc1",
        "number": _reply(number + 1),
        "first": _reply(number, first=1),
        "twice": _reply(number, reports=[GOOD] * (len(batch.jobs) + 1)),
        "early": _reply(number, reports=[]),
        "fuel": _reply(number, Report(fuel_consumed=2**40, output=b"")),
        "code": _reply(number, Report(code="auth_revoked", message="no")),
        "message": _reply(number, Report(code="internal", message="\x1b[2J")),
        "output": _reply(number, Report(output=b"\x7f" + b"\xff" * 8)),
        "honest": _reply(number, reports=[GOOD] * len(batch.jobs)),
    }[batch.jobs[0].function]


def serve(link: socket.socket) -> None:
    """Be the liar."""
    inbox = Inbox(link)
    bodies = inbox.bodies()
    config = protocol.decode_config(next(bodies))
    hello = protocol.Hello([], config_s256(config.max_stack_bytes))
    link.sendall(protocol.frame(hello))
    for body in bodies:
        if config.cpu_s is not None:  # only compile children have it
            shape = msgspec.msgpack.encode(ModuleShape())
            link.sendall(protocol.frame(protocol.Compiled(None, "", 4096, shape)))
            return
        order = protocol.decode_order(body)
        if isinstance(order, protocol.Batch):
            link.sendall(lies(order))
            time.sleep(0 if order.jobs[0].function == "honest" else 60)


def main(socket_fd: int, _page_fd: int) -> None:
    """Entry of the process."""
    serve(socket.socket(fileno=socket_fd))
    os._exit(0)
