"""Opening a client's two topics."""

from __future__ import annotations

import pytest

from stream_executor.client.logs import connect
from stream_executor.model.errors import ConfigError


async def test_a_misspelt_kafka_property_is_refused_before_anything_is_opened() -> None:
    properties = {"bootstrap.servers": "127.0.0.1:1", "sasl.usrname": "me"}
    with pytest.raises(ConfigError, match=r"sasl\.usrname"):
        await connect(properties, "requests", "results")
