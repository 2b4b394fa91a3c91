"""Log events as JSON lines on standard error, one line an event.

An event is a constant name and fields, not prose. Two promises are kept here, whatever
a caller or a library says: a line below level error never holds the word "error", so
that the manual's ``journalctl … | grep -i error`` finds errors only; and no line holds
a bearer token or a field named like a secret. On a terminal people get colours instead
of JSON. Which events exist is each room's affair.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_HIDDEN = "(hidden)"
_SECRET_NAME = re.compile(r"secret|password|passphrase|authorization|private|^token$")
# Three base64url segments of which the first is a JSON object: a JWT, signed or not.
_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]*")
_ERROR_WORD = re.compile(r"(err)or", re.IGNORECASE)
_MAX_VALUE_CHARACTERS = 200
# A library that tries again for ever says so for ever: a broker that is away makes
# aiokafka write a hundred lines a second.
_SAME_EVERY_S = 60.0
_MOST_TEMPLATES = 1024


def configure_logs(
    level: str, stream: TextIO | None = None, *, console: bool | None = None
) -> None:
    """Send all events of at least this level to a stream; call again to change it.

    Libraries that use the standard ``logging`` are heard from level warn on (info when
    the level is debug): their debug output may quote requests with credentials.

    Args:
        level: a key of ``LEVELS``.
        stream: standard error by default.
        console: colours and columns instead of JSON; by default if it is a terminal.
    """
    out = sys.stderr if stream is None else stream
    if console is None:
        console = out.isatty()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _plain_levels,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _hide_secrets,
    ]
    factory: Any
    if console:
        # Not rich's tracebacks: those show local variables, secrets among them.
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=plain)
        processors += [renderer, _keep_promises]
        factory = structlog.PrintLoggerFactory(out)
    else:
        traceback = structlog.processors.format_exc_info
        processors += [traceback, _render, _keep_promises, _encode]
        factory = structlog.BytesLoggerFactory(cast("BinaryIO", out.buffer))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=factory,
        cache_logger_on_first_use=False,  # so that a reload changes every logger
    )
    logging.basicConfig(
        level=logging.INFO if level == "debug" else logging.WARNING,
        handlers=[_LibraryHandler()],
        force=True,
    )


def drop_events(*, unless: bool = False) -> None:
    """Let our own events go nowhere: for commands, whose stdout is data.

    Args:
        unless: send all of them to standard error instead.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if unless else logging.CRITICAL
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class _LibraryHandler(logging.Handler):
    """Makes a library's message one event named ``library``.

    The same message, whatever its arguments, once a minute: the next line has how many
    there were in between.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        key = record.name, str(record.msg)
        now = time.monotonic()
        told, repeated = self._told.get(key, (-_SAME_EVERY_S, 0))
        if now - told < _SAME_EVERY_S:
            self._told[key] = told, repeated + 1
            return
        if len(self._told) >= _MOST_TEMPLATES:  # some put their arguments in themselves
            self._told.clear()
        self._told[key] = now, 0
        level = record.levelno
        if record.name.startswith("aiokafka"):
            # It calls an error what it mends itself (a coordinator that is not there
            # yet); what it cannot mend reaches us as an exception.
            level = min(level, logging.WARNING)
        structlog.get_logger().log(
            level,
            "library",
            # uvicorn calls the logger of everything `uvicorn.error`.
            source=record.name.removesuffix(".error"),
            text=record.getMessage(),
            exc_info=record.exc_info or None,
            **({"repeated": repeated} if repeated else {}),
        )


def _plain_levels(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Name levels as LOG_LEVEL does; what is critical is an error that ends us."""
    if event["level"] == "warning":
        event["level"] = "warn"
    elif event["level"] == "critical":
        event["level"] = "error"
        event["fatal"] = True
    return event


def _hide_secrets(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name in event:
        if _SECRET_NAME.search(name):
            event[name] = _HIDDEN
    return event


def _render(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """Give one line of JSON: time, level, event, then the fields as they came."""
    first = {name: event.pop(name) for name in ("time", "level", "event")}
    return orjson.dumps(
        {**first, **event}, default=_plain, option=orjson.OPT_NON_STR_KEYS
    ).decode()


def _keep_promises(_logger: object, method: str, line: str) -> str:
    """Hide tokens; take the word "error" out of lines that are none."""
    line = _TOKEN.sub(_HIDDEN, line)
    if method in {"error", "exception", "critical", "fatal"}:
        return line
    return _ERROR_WORD.sub(r"\1", line)


def _encode(_logger: object, _method: str, line: str) -> bytes:
    return line.encode()


def _plain(value: object) -> str:
    """Show what JSON has no form for: bytes in hex, anything else by its repr."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()[:_MAX_VALUE_CHARACTERS]
    return repr(value)[:_MAX_VALUE_CHARACTERS]
