"""What all tests share: a broker for those that ask, no network for unit tests.

A test that needs a command which pip cannot bring says ``@pytest.mark.needs("kcat")``,
where an absolute path stands for what is no command; one for root says ``mark.root``.
Where it is missing the test is skipped and the last lines of the run name both; with
CI=true it fails instead.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import structlog
from pytest_socket import disable_socket, enable_socket

from tests.lacking import lacking

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["stream_executor.testing.kafka", "tests.secured_kafka"]

# How long an example takes says how busy the machine is, not whether it is right.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("here")

_UNIT = Path(__file__).with_name("unit")
_PARTS = Path(__file__).parents[1] / "tools" / "system-parts.txt"
# Where Debian keeps commands that are not for everybody's PATH.
_SEARCHED = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
_missing = pytest.StashKey[dict[str, list[str]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the list of what was missing; let Ctrl-C mean what it says."""
    config.stash[_missing] = {}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job ignores Ctrl-C, and so would what tests start.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a missing command, or root; fail it in CI."""
    for marker in item.iter_markers("needs"):
        for command in marker.args:
            if command not in _known_parts():
                pytest.fail(f"{command} has no line in {_PARTS.name}")
            if command.startswith("/") and Path(command).exists():
                continue
            if shutil.which(command, path=_SEARCHED) is None:
                _lacks(item, command, f"{command} is not installed: make system-parts")
    if item.get_closest_marker("root") is not None and os.geteuid() != 0:
        _lacks(item, "root", "only root may do what is tested")


def _lacks(item: pytest.Item, what: str, reason: str) -> None:
    item.config.stash[_missing].setdefault(what, []).append(item.nodeid)
    lacking(reason)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name what was missing and which tests it cost, last of all."""
    for what, tests in config.stash[_missing].items():
        terminalreporter.line(f"Missing: {what}. Not run for want of it:")
        for test in tests:
            terminalreporter.line(f"  {test}")


def _known_parts() -> frozenset[str]:
    lines = _PARTS.read_text(encoding="utf-8").splitlines()
    return frozenset(line.split()[0] for line in lines if line and line[0] != "#")


@pytest.fixture(autouse=True)
def logs_as_they_begin() -> Iterator[None]:
    """A level that one test sets must not hide what another looks for."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def no_network_in_unit_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Only socket pairs, which event loops and children need."""
    if not request.path.is_relative_to(_UNIT):
        yield
        return
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()
