"""``wasm-executor dev``: stay up, say how to use it, leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from stream_executor.services.dev_stack import EXAMPLE, DevStack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_EXIT_OK, _EXIT_INTERRUPTED = 0, 130
_WATCH_S = 0.5
_BODY = (
    b'{"request_id":"by-hand-1","module":"add@1","invocation":'
    b'{"kind":"call","function":"add","args":[{"i32":2},{"i32":3}]}}'
)

_KEPT = (
    "Ctrl-C stops everything; keys, modules and records stay in {folder}.\n"
    "The next start has another address: copy its export line anew."
)
_FORGOTTEN = (
    "Ctrl-C stops everything and forgets it, keys and modules too; --data DIR keeps it."
)


class _Told(BaseException):
    """A signal told us to stop; not an error, so nobody's ``except`` may eat it."""

    def __init__(self, number: int) -> None:
        self.number = number


def run_dev(
    data: Path | None, *, partitions: int, port: int | None, as_json: bool
) -> int:
    """Start the stack, print how to use it, wait for a signal, stop it.

    Args:
        data: folder to keep; None forgets everything.
        partitions: at the first start.
        port: HTTP port; None for 9090 or any.
        as_json: print one JSON object in the banner's place.

    Returns:
        0 after SIGTERM or Ctrl-C, once nothing is left running.

    Raises:
        EmbeddedKafkaError, DevStackError: it cannot start.
    """
    stack = DevStack(data, partitions=partitions, port=port, tell=_progress)
    with _signals_raise():
        try:
            stack.start()
            _progress("")
            _print(stack, as_json=as_json)
            _wait(stack)
        except _Told as told:
            _progress("stopping")
            if told.number == signal.SIGINT and sys.stderr.isatty():
                sys.stderr.write("\n")
        finally:
            with _signals_wait():
                stack.stop()
                _progress("")
    return _EXIT_OK


def facts(stack: DevStack) -> dict[str, Any]:
    """Give everything that the banner says."""
    program = _program()
    credentials = shlex.quote(str(stack.credentials))
    body = stack.folder / "request.json"
    body.write_bytes(_BODY)
    quoted = shlex.quote(str(body))
    return {
        "bootstrap_servers": stack.bootstrap,
        "kafka_version": stack.kafka_version,
        "http": stack.http,
        "credentials": str(stack.credentials),
        "log": str(stack.log),
        "submit": f"{program} submit {EXAMPLE} --function add --arg i32:2 --arg i32:3 "
        f"--wait --credentials {credentials}",
        "by_hand": f"T=$({program} token issue --body {quoted} --partition 0 "
        f"--credentials {credentials}) && kcat -P -b {stack.bootstrap} "
        f'-t wasm.requests -p 0 -H "authorization=Bearer $T" {quoted}',
    }


def _print(stack: DevStack, *, as_json: bool) -> None:
    said = facts(stack)
    exports = (
        f"EXECUTOR_CREDENTIALS={shlex.quote(str(said['credentials']))} "
        f"BOOTSTRAP={said['bootstrap_servers']}"
    )
    if as_json:
        line = msgspec.json.encode({"schema": "wasm-executor/dev/v1"} | said)
        sys.stdout.write(line.decode() + "\n")
    else:
        sys.stdout.write(
            f"""wasm-executor dev: one node, for development

  Kafka        {said["bootstrap_servers"]}  (Apache Kafka {said["kafka_version"]})
  metrics      {said["http"]}/metrics  (overview: {said["http"]}/)
  credentials  {said["credentials"]}
  log          {said["log"]}

For the lines of the README, in another shell:
  export {exports}

Submit a request:
  {said["submit"]}

The same by hand, with kcat:
  {said["by_hand"]}

{_KEPT.format(folder=stack.folder) if stack.kept else _FORGOTTEN}
"""
        )
    sys.stdout.flush()


def _wait(stack: DevStack) -> None:
    """Wait for a signal.

    Raises:
        DevStackError: the executor ended by itself.
    """
    forever = threading.Event()
    while not forever.wait(_WATCH_S):
        code = stack.executor_ended()
        if code is not None:
            raise stack.executor_failed(f"ended with {code}")


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into ``_Told`` in the main thread."""

    def tell(number: int, _: object) -> None:
        raise _Told(number)

    with _handled(tell):
        yield


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """While stopping, a signal changes nothing; the third one ends it at once.

    What is left is ended all the same: the executor by the kernel, Kafka by its
    guardian.
    """
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            os._exit(_EXIT_INTERRUPTED)

    with _handled(count):
        yield


@contextlib.contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _program() -> str:
    """Give the command as it was called, so that a copied line finds it."""
    name = sys.argv[0]
    return shlex.quote(name) if "/" in name else "wasm-executor"


def _progress(text: str) -> None:
    """Show one line that replaces the last, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}{'…' if text else ''}")
        sys.stderr.flush()
