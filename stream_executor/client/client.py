"""``ExecutorClient``: ask for executions and read their results, from asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, cast

from stream_executor.client import request as build
from stream_executor.client.errors import ArgumentError
from stream_executor.client.reading import ResultReader
from stream_executor.client.sending import Group, PartitionSender
from stream_executor.model.errors import MisuseError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from types import TracebackType

    from stream_executor.client.credentials import Credentials
    from stream_executor.client.ports import RequestLog, ResultLog, Signer
    from stream_executor.client.request import Module
    from stream_executor.client.result import Result
    from stream_executor.client.submission import Submission
    from stream_executor.client.values import Argument
    from stream_executor.model.record import Headers
    from stream_executor.model.request import ExecutionRequest, RequestedLimits

DEFAULT_TIMEOUT_S = 30.0


class ExecutorClient:
    """Submits signed requests and gives their results; an async context manager.

    Guarantees: each request is signed for exactly the partition and the bytes it is
    sent with, right before it is sent; it is appended at most once; its result is
    found by the place of its own acknowledged append, never by an id that anybody
    could write; reading began before the first send, so no result is missed. What
    failed without a doubt raises ``UnavailableError`` (try again) or
    ``BrokerRefusedError`` (do not); what may have been sent raises
    ``OutcomeUnknownError`` and is never sent twice.

    One client serves any number of concurrent tasks of one event loop.

    Args:
        bootstrap_servers: ``host:port`` of brokers, separated by commas.
        credentials: who you are and where everything is (``Credentials``, or the
            path of such a file); gives all other values that are not given here.
        signer: signs the requests instead of the credentials' key, usually an
            ``auth.sign.RequestSigner``.
        requests_topic, results_topic: where to ask and where answers come.
        kafka_properties: security and other client properties under Kafka's names.
        headers: sent with every request (``traceparent`` and the like).
        results: False opens a client that only submits, and reads nothing.
        timeout_s: how long ``execute`` and ``result`` wait, if they are not told.
    """

    def __init__(
        self,
        *,
        bootstrap_servers: str | None = None,
        credentials: Credentials | str | None = None,
        signer: Signer | None = None,
        requests_topic: str | None = None,
        results_topic: str | None = None,
        kafka_properties: Mapping[str, str] | None = None,
        headers: Headers = (),
        results: bool = True,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        _logs: tuple[RequestLog, ResultLog] | None = None,
    ) -> None:
        from stream_executor.client.credentials import (  # noqa: PLC0415 - see below
            resolve,
        )

        self._place = resolve(
            credentials,
            bootstrap_servers=bootstrap_servers,
            requests_topic=requests_topic,
            results_topic=results_topic,
            kafka_properties=kafka_properties,
            signer=signer,
        )
        self._headers = headers
        self._wants_results = results
        self._timeout_s = timeout_s
        self._logs = _logs
        self._log: RequestLog | None = None
        self._results: ResultReader | None = None
        self._senders: list[PartitionSender] = []
        self._next = 0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect, and fix where reading of results begins.

        Raises:
            UnavailableError: no broker answers.
            BrokerRefusedError: a topic is missing, or not ours to use.
        """
        if self._log is not None:
            raise MisuseError("this client is open already")
        place = self._place
        requests, results = self._logs or await place.connect()
        self._log = requests
        reader = None
        try:
            if self._wants_results:
                reader = ResultReader(results, place.requests_topic)
                await reader.start()
            count = await requests.partition_count()
        except BaseException:
            self._log = None
            await (reader or results).close()
            await requests.close()
            raise
        self._results = reader
        self._senders = [
            PartitionSender(
                requests,
                place.signer,
                place.requests_topic,
                partition,
                self._headers,
                self._sending,
                self._sent,
            )
            for partition in range(count)
        ]

    async def close(self) -> None:
        """Finish the sends under way and disconnect. May be called twice."""
        log, self._log = self._log, None
        if log is None:
            return
        await asyncio.gather(*(sender.close() for sender in self._senders))
        if self._results is not None:
            await self._results.close()
        await log.close()

    @property
    def partition_count(self) -> int:
        """How many partitions requests are spread over."""
        return len(self._senders)

    async def execute(
        self,
        module: Module,
        *,
        function: str | None = None,
        args: Sequence[Argument] = (),
        input: bytes | None = None,  # noqa: A002 - the wire's own word
        stdin: bytes | None = None,
        argv: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        limits: RequestedLimits | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """Run a module once and give its result, whatever it is.

        How the module is entered follows from what is given: ``function`` (and
        ``args``) calls an export; ``input`` hands bytes to a bytes module; ``stdin``,
        ``argv``, ``env`` or ``files`` run a WASI command.

        Args:
            module: ``name@version``, ``sha256:<hex>``, a ``Path`` or the bytes of a
                WebAssembly binary.
            function: the export to call.
            args: its arguments; see ``client.values`` for their types.
            input: the bytes module's input.
            stdin: the command's standard input.
            argv: its arguments, by convention its own name first.
            env: its environment variables.
            files: its read-only files by absolute path.
            limits: lower limits than the deployment's.
            request_id: your own id; made up if None.
            timeout_s: how long to wait for the result; the client's default if None.

        Raises:
            ArgumentError: what is given makes no request; nothing was sent.
            ResultTimeoutError: no result yet; the request stays valid.
            UnavailableError, BrokerRefusedError, OutcomeUnknownError: see the class.
        """
        asked = request_of(
            module,
            function=function,
            args=args,
            input=input,
            stdin=stdin,
            argv=argv,
            env=env,
            files=files,
            limits=limits,
            request_id=request_id,
        )
        submission = await self.submit(asked)
        return await self.result(submission, timeout_s=timeout_s)

    async def submit(
        self, request: ExecutionRequest, *, partition: int | None = None
    ) -> Submission:
        """Send one request (``client.request`` builds them); wait for the broker only.

        Args:
            request: what to run.
            partition: where to; the next in turn if None.

        Raises:
            UnavailableError, BrokerRefusedError, OutcomeUnknownError: see the class.
        """
        return (await self.submit_many([request], partition=partition))[0]

    async def submit_many(
        self, requests: Iterable[ExecutionRequest], *, partition: int | None = None
    ) -> list[Submission]:
        """Send many requests in as few batches as may be; the way to be fast.

        They are spread over the partitions in turn. Order among requests holds within
        a partition only.

        Args:
            requests: what to run.
            partition: where to, for all of them; in turn if None.

        Returns:
            One submission a request, in the order given.

        Raises:
            UnavailableError, BrokerRefusedError, OutcomeUnknownError: for the first
                that failed, once it did; others may have been sent.
        """
        if self._log is None:
            raise MisuseError("open the client first: async with ExecutorClient(…)")
        asked = list(requests)
        if not asked:
            return []
        senders = self._senders
        if partition is not None:
            if not 0 <= partition < len(senders):
                raise ArgumentError(
                    f"partition: expected 0 to {len(senders) - 1}, got {partition}"
                )
            senders = [senders[partition]]
        group = Group(len(asked))
        at, count = self._next, len(senders)
        for index, request in enumerate(asked):
            senders[(at + index) % count].put(request, group, index)
        self._next = (at + len(asked)) % len(self._senders)
        await group.done
        return cast("list[Submission]", group.submissions)

    async def result(
        self, submission: Submission, *, timeout_s: float | None = None
    ) -> Result:
        """Wait for the result of a submission of this client; it is given once.

        Raises:
            ResultTimeoutError: not yet; ask again.
        """
        reader = self._reader()
        return await reader.take(
            submission, self._timeout_s if timeout_s is None else timeout_s
        )

    def results(
        self, submissions: Iterable[Submission], *, timeout_s: float | None = None
    ) -> AsyncIterator[tuple[Submission, Result]]:
        """Give (submission, result) of these submissions as results arrive.

        Args:
            submissions: of this client, whose results were not taken yet.
            timeout_s: how long to wait between one result and the next.

        Raises:
            ResultTimeoutError: naming one that is missing.
        """
        return self._reader().take_all(
            submissions, self._timeout_s if timeout_s is None else timeout_s
        )

    def follow(self) -> AsyncIterator[Result]:
        """Give every result on the topic from now on, whoever asked; never ends."""
        return self._reader().follow()

    def _reader(self) -> ResultReader:
        if self._results is None:
            raise MisuseError("this client is not open, or was opened without results")
        return self._results

    def _sending(self, partition: int) -> None:
        if self._results is not None:
            self._results.sending(partition)

    def _sent(self, partition: int, submissions: Sequence[Submission]) -> None:
        if self._results is not None:
            self._results.sent(partition, submissions)


def request_of(
    module: Module,
    *,
    function: str | None = None,
    args: Sequence[Argument] = (),
    input: bytes | None = None,  # noqa: A002 - the wire's own word
    stdin: bytes | None = None,
    argv: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
    **more: Any,
) -> ExecutionRequest:
    """Build the request whose kind follows from what is given, as ``execute`` says.

    Raises:
        ArgumentError: nothing, or values of two kinds, or of no kind.
    """
    wasi = {"stdin": stdin, "argv": argv, "env": env, "files": files}
    given = [
        name
        for name, there in {
            "function": function is not None,
            "input": input is not None,
            "stdin, argv, env or files": any(v is not None for v in wasi.values()),
        }.items()
        if there
    ]
    if len(given) != 1:
        raise ArgumentError(
            "expected exactly one of function (call), input (bytes) and "
            f"stdin/argv/env/files (WASI), got {' and '.join(given) or 'none'}"
        )
    if function is not None:
        return build.call(module, function, args, **more)
    if args:
        raise ArgumentError("args need function; a WASI command takes argv")
    if input is not None:
        return build.transform(module, input, **more)
    return build.command(
        module, argv or (), stdin=stdin or b"", env=env, files=files, **more
    )
