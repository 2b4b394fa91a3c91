"""Appending requests: one sender for each partition, batches by themselves.

A sender takes whatever waits, encodes and signs it *then* (a token is good for two
minutes), appends it as one batch and waits for the broker's word before the next.
Alone, a request goes at once; under load batches grow by themselves.

Not here: results.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from stream_executor.client.errors import OutcomeUnknownError
from stream_executor.client.request import encode
from stream_executor.client.submission import Submission
from stream_executor.model.errors import IndefiniteError, MisuseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream_executor.client.ports import RequestLog, Signer
    from stream_executor.model.record import Headers
    from stream_executor.model.request import ExecutionRequest

# Signing a batch holds the loop for a few milliseconds; and a broker takes batches
# of up to 1 MiB unless told otherwise. One larger request is a batch of its own.
MAX_BATCH_REQUESTS = 500
MAX_BATCH_BYTES = 512 * 1024
_RECORD_OVERHEAD = 64


class Group:
    """Requests that are submitted together and answered for together.

    Attributes:
        submissions: in the caller's order, filled in as batches are acknowledged.
        done: set when all are; an exception if one of them was not appended.
    """

    __slots__ = ("_left", "done", "submissions")

    def __init__(self, size: int) -> None:
        self.submissions: list[Submission | None] = [None] * size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = size

    def acknowledge(self, index: int, submission: Submission) -> None:
        """Note one acknowledged request."""
        self.submissions[index] = submission
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Note that one was not appended; the first error is the group's."""
        if not self.done.done():
            self.done.set_exception(error)


class PartitionSender:
    """Appends to one partition, one batch at a time, in order.

    Args:
        log: where to append.
        signer: signs each record.
        topic, partition: what the signatures are bound to.
        headers: go with every record, beside the authorization.
        on_begin: called before each append.
        on_end: called after it, with what was appended (nothing if it failed), before
            anybody learns of it.
    """

    def __init__(
        self,
        log: RequestLog,
        signer: Signer,
        topic: str,
        partition: int,
        headers: Headers,
        on_begin: Callable[[int], None],
        on_end: Callable[[int, Sequence[Submission]], None],
    ) -> None:
        self._log = log
        self._signer = signer
        self._topic = topic
        self._partition = partition
        self._headers = list(headers)
        self._on_begin = on_begin
        self._on_end = on_end
        self._queue: deque[tuple[ExecutionRequest, Group, int]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def put(self, request: ExecutionRequest, group: Group, index: int) -> None:
        """Queue one request; it is encoded and signed when its turn comes."""
        if self._closed:
            raise MisuseError("this client is closed")
        self._queue.append((request, group, index))
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Wait for the batch under way; what is still queued is not sent."""
        self._closed = True
        error = MisuseError("the client was closed before this request was sent")
        while self._queue:
            self._queue.popleft()[1].fail(error)
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            # Those who submit in the same turn of the loop share the batch.
            await asyncio.sleep(0)
            while self._queue:
                await self._send_batch()
        finally:
            self._task = None

    async def _send_batch(self) -> None:
        batch: list[tuple[str, Group, int]] = []
        records: list[tuple[bytes, list[tuple[str, bytes]]]] = []
        room = MAX_BATCH_BYTES
        now_s = int(time.time())
        sign, topic, partition = self._signer.sign, self._topic, self._partition
        while self._queue and len(batch) < MAX_BATCH_REQUESTS:
            request, group, index = self._queue[0]
            try:
                value = encode(request)
                token = sign(topic, partition, value, now_s=now_s)
            except Exception as error:  # noqa: BLE001 - the caller's, who gets it
                self._queue.popleft()
                group.fail(error)
                continue
            size = len(value) + len(token) + _RECORD_OVERHEAD
            if batch and size > room:
                break
            self._queue.popleft()
            room -= size
            batch.append((request.request_id, group, index))
            bearer = ("authorization", b"Bearer " + token)
            records.append((value, [bearer, *self._headers]))
        if batch:
            await self._append(batch, records)

    async def _append(
        self,
        batch: list[tuple[str, Group, int]],
        records: list[tuple[bytes, list[tuple[str, bytes]]]],
    ) -> None:
        submissions: list[Submission] = []
        self._on_begin(self._partition)
        try:
            base = await self._log.append(self._partition, records)
            submissions = [
                Submission(self._topic, self._partition, base + i, request_id)
                for i, (request_id, _, _) in enumerate(batch)
            ]
        except BaseException as error:
            for _, group, _ in batch:
                group.fail(_for_caller(error, batch))
            if not isinstance(error, Exception):
                raise
        finally:
            self._on_end(self._partition, submissions)
        for submission, (_, group, index) in zip(submissions, batch, strict=False):
            group.acknowledge(index, submission)


def _for_caller(
    error: BaseException, batch: list[tuple[str, Group, int]]
) -> BaseException:
    if isinstance(error, IndefiniteError):
        doubt = OutcomeUnknownError(
            f"{len(batch)} request(s) may or may not have been appended: {error}",
            [request_id for request_id, _, _ in batch],
        )
        doubt.__cause__ = error
        return doubt
    return error
