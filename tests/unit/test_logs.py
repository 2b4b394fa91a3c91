from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from stream_executor.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def settings_of_others() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Lines:
    def __init__(self, level: str, *, console: bool = False) -> None:
        self._bytes = io.BytesIO()
        self._stream = io.TextIOWrapper(self._bytes, write_through=True)
        configure_logs(level, self._stream, console=console)

    @property
    def text(self) -> str:
        return self._bytes.getvalue().decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


def test_an_event_is_one_line_of_json_with_time_level_and_name_first() -> None:
    lines = Lines("info")
    structlog.get_logger().info("lane.acquired", partition=3, reason="a\nb")
    (event,) = lines.events
    assert list(event)[:3] == ["time", "level", "event"]
    assert event["time"].endswith("Z")
    assert event["event"] == "lane.acquired"
    assert event["partition"] == 3


def test_levels_are_named_as_in_the_configuration() -> None:
    lines = Lines("debug")
    log = structlog.get_logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [e["level"] for e in lines.events] == ["debug", "info", "warn", "error"]


def test_what_is_below_the_level_is_not_written() -> None:
    lines = Lines("warn")
    structlog.get_logger().info("a")
    assert lines.text == ""


def test_a_level_can_change_while_loggers_live() -> None:
    lines = Lines("error")
    log = structlog.get_logger()
    log.info("a")
    configure_logs("info", lines._stream)
    log.info("b")
    assert [event["event"] for event in lines.events] == ["b"]


@pytest.mark.parametrize("console", [True, False])
def test_grep_error_finds_errors_only(console: bool) -> None:  # noqa: FBT001
    lines = Lines("debug", console=console)
    log = structlog.get_logger()
    log.warning("kafka.away", reason="KafkaConnectionError: Error 7", errors=0)
    logging.getLogger("uvicorn.error").warning("an error in a library")
    assert "error" not in lines.text.lower()
    log.error("worker.died")
    assert "error" in lines.text.lower()


def test_what_ends_the_process_is_found_by_grep_error_too() -> None:
    lines = Lines("info")
    structlog.get_logger().critical("settings.refused")
    assert lines.events[0]["level"] == "error"
    assert lines.events[0]["fatal"] is True


@pytest.mark.parametrize("console", [True, False])
def test_tokens_and_secrets_never_appear(console: bool) -> None:  # noqa: FBT001
    lines = Lines("debug", console=console)
    structlog.get_logger().error(
        "auth.refused",
        header=f"Bearer {TOKEN}",
        jwt_secret="hunter2",
        authorization="Basic aHVudGVyMg==",
    )
    assert TOKEN not in lines.text
    assert "hunter2" not in lines.text
    assert "aHVudGVyMg" not in lines.text


def test_a_librarys_debug_output_is_never_heard() -> None:
    """It may quote requests with credentials."""
    lines = Lines("debug")
    logging.getLogger("aiokafka").debug("SaslAuthenticateRequest(...)")
    logging.getLogger("aiokafka").info("joined")
    assert [event["text"] for event in lines.events] == ["joined"]


def test_a_traceback_stays_on_its_line() -> None:
    lines = Lines("info")
    try:
        int("boom")
    except ValueError:
        structlog.get_logger().exception("worker.failed")
    assert "boom" in lines.events[0]["exception"]


def test_a_traceback_on_a_terminal_shows_no_local_variable() -> None:
    lines = Lines("info", console=True)
    try:
        password = "hunter" + "2"
        int(password[:3])
    except ValueError:
        structlog.get_logger().exception("worker.failed")
    assert "ValueError" in lines.text
    assert "hunter2" not in lines.text


def test_bytes_and_odd_values_are_shown_short() -> None:
    lines = Lines("info")
    structlog.get_logger().info("x", digest=b"\x01\xff", odd=object())
    assert lines.events[0]["digest"] == "01ff"
    assert lines.events[0]["odd"].startswith("<object")


def test_what_a_library_says_again_and_again_is_written_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the arguments: a broker that is away makes hundreds a second."""
    now = [0.0]
    monkeypatch.setattr("stream_executor.logs.time.monotonic", lambda: now[0])
    lines = Lines("info")
    library = logging.getLogger("aiokafka.conn")
    for port in range(1_000):
        library.error("Unable to connect to port %s", port)
    library.error("something else")
    now[0] = 61.0
    library.error("Unable to connect to port %s", 7)
    assert [(e["text"], e.get("repeated")) for e in lines.events] == [
        ("Unable to connect to port 0", None),
        ("something else", None),
        ("Unable to connect to port 7", 999),
    ]
