"""What all tests share: a broker for those that ask, no network for unit tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pytest_socket import disable_socket, enable_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["stream_executor.testing.kafka"]

_UNIT = Path(__file__).with_name("unit")


@pytest.fixture(autouse=True)
def no_network_in_unit_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Only socket pairs, which event loops and children need."""
    if not request.path.is_relative_to(_UNIT):
        yield
        return
    disable_socket(allow_unix_socket=True)
    yield
    enable_socket()
