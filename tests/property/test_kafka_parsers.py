"""Good batches read by four parsers: our two, aiokafka's and kafka-python's.

The batches are made by aiokafka's and kafka-python's builders, so nothing here was
written by the parser that is tested. kafka-python opens gzip with what Python has; its
libraries for other codecs are not installed, and what is inside is the same.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from aiokafka.record.default_records import DefaultRecordBatch as AioBatch
from aiokafka.record.default_records import DefaultRecordBatchBuilder as AioBuilder
from hypothesis import given
from hypothesis import strategies as st

from stream_executor.kafka import records as room
from stream_executor.kafka.batches import parse_batches
from stream_executor.kafka.records import DamagedRecord, open_batches

with warnings.catch_warnings():
    # kafka-python reads its own files in a way that importlib.resources regrets.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.record.default_records import DefaultRecordBatch as PyBatch
    from kafka.record.default_records import DefaultRecordBatchBuilder as PyBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream_executor.model.record import Record

Row = tuple[int, int, bytes | None, bytes | None, list[tuple[str, bytes]]]
some_bytes = st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=8), some_bytes), max_size=6)
rows = st.lists(
    st.tuples(
        st.integers(0, 1 << 41), st.none() | some_bytes, st.none() | some_bytes, headers
    ),
    min_size=1,
    max_size=30,
)


def built(builder: type[Any], codec: int, content: list[Any]) -> bytes:
    made = builder(
        magic=2, compression_type=codec, is_transactional=False, producer_id=-1,
        producer_epoch=-1, base_sequence=-1, batch_size=1 << 20,
    )  # fmt: skip
    for offset, (timestamp, key, value, named) in enumerate(content):
        made.append(offset, timestamp, key, value, named)
    return bytes(made.build())


def shape(records: Iterable[Any]) -> list[Row]:
    return [
        (
            one.offset,
            one.timestamp,
            one.key,
            one.value,
            [(name, content) for name, content in one.headers],
        )
        for one in records
    ]


def ours(data: bytes) -> list[Record]:
    pieces = open_batches(data, parse_batches(data), (), 0)
    return [record for piece in pieces for record in piece]


@pytest.mark.parametrize(
    ("builder", "codec"),
    [*((AioBuilder, codec) for codec in range(5)), (PyBuilder, 0), (PyBuilder, 1)],
)
@given(content=rows)
def test_four_parsers_read_the_same(
    builder: type[Any], codec: int, content: list[Any]
) -> None:
    data = built(builder, codec, content)
    expected = [(offset, *row) for offset, row in enumerate(content)]
    fast = ours(data)
    with mock.patch.object(room, "_C_PARSER_BYTES", -1):
        tolerant = ours(data)
    assert not any(isinstance(one, DamagedRecord) for one in [*fast, *tolerant])
    assert shape(tolerant) == expected
    assert shape(fast) == expected
    assert shape(AioBatch(data)) == expected
    if codec in {0, 1}:
        assert shape(PyBatch(data)) == expected
