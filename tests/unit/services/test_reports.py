from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from stream_executor.http import metrics
from stream_executor.http.status import LaneStatus
from stream_executor.http.tally import Tally
from stream_executor.model.errors import MalformedError
from stream_executor.model.lanes import LaneState
from stream_executor.services.reports import (
    MAX_FRAME_BYTES,
    Fault,
    Frame,
    Report,
    ReportWriter,
    WorkerState,
    encode_frame,
    read_frames,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

STATE = WorkerState(
    ready=True,
    engine="wasmtime 50",
    hardening=("seccomp",),
    lanes=(LaneStatus(3, LaneState.RUNNING, next=7, end=9, term=2, in_flight=1),),
)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def stream_of(data: bytes) -> asyncio.StreamReader:
    stream = asyncio.StreamReader()
    stream.feed_data(data)
    stream.feed_eof()
    return stream


async def frames_of(data: bytes) -> list[Frame]:
    return [frame async for frame in read_frames(stream_of(data))]


async def test_a_report_arrives_as_it_was_sent(pipe: tuple[int, int]) -> None:
    tally = Tally()
    tally.add(metrics.EXECUTIONS, 2)
    writer = ReportWriter(pipe[1], tally)
    assert writer.send(STATE)
    writer.close()
    (frame,) = await frames_of(os.read(pipe[0], 65536))
    assert isinstance(frame, Report)
    assert frame.state == STATE
    assert frame.deltas.counters == [("wasm_executions_total", "", 2)]


async def test_a_full_pipe_delays_counts_and_loses_none(pipe: tuple[int, int]) -> None:
    """The supervisor is stopped: the worker neither waits nor forgets."""
    tally = Tally()
    writer = ReportWriter(pipe[1], tally)
    sent = 0
    tally.add(metrics.EXECUTIONS)
    while writer.send(STATE):
        sent += 1
        tally.add(metrics.EXECUTIONS)
    assert not writer.send(STATE)
    data = bytearray()
    os.set_blocking(pipe[0], False)
    while True:
        try:
            data += os.read(pipe[0], 65536)
        except BlockingIOError:
            if writer.send(STATE):
                break
    writer.close()
    while chunk := os.read(pipe[0], 65536):
        data += chunk
    counted = 0.0
    for frame in await frames_of(bytes(data)):
        assert isinstance(frame, Report)
        counted += sum(amount for _, _, amount in frame.deltas.counters)
    assert counted == sent + 1


def test_a_worker_learns_that_its_supervisor_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = ReportWriter(writing, Tally())
    with pytest.raises(BrokenPipeError):
        writer.send(STATE)
    writer.fault("nobody hears this")
    writer.close()


async def test_a_fault_is_the_last_word_after_pending_reports(
    pipe: tuple[int, int],
) -> None:
    writer = ReportWriter(pipe[1], Tally())
    writer.send(STATE)
    writer.fault("JWKS file: no such file")
    writer.close()
    frames = await frames_of(os.read(pipe[0], 65536))
    assert frames[-1] == Fault("JWKS file: no such file")
    assert len(frames) == 2


async def test_a_frame_torn_by_the_workers_death_is_dropped() -> None:
    whole = encode_frame(Fault("x"))
    for cut in range(1, len(whole)):
        assert await frames_of(whole + whole[:cut]) == [Fault("x")]


@pytest.mark.parametrize(
    "data",
    [
        (MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
        b"\0\0\0\1\xc1",
        b"\0\0\0\2\x80\x80",
        encode_frame(Fault("x")).replace(b"fault", b"fooot"),
    ],
    ids=["length beyond the cap", "no MessagePack", "two values", "unknown kind"],
)
async def test_bytes_that_are_no_frame_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        await frames_of(data)


def test_the_pipe_is_not_inherited_by_sandbox_children(pipe: tuple[int, int]) -> None:
    os.set_inheritable(pipe[1], True)
    writer = ReportWriter(pipe[1], Tally())
    assert not os.get_inheritable(pipe[1])
    writer.close()
