"""The audit services on a real Kafka: every comparison, foreign records, replay."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from stream_executor.audit.findings import FindingCode
from stream_executor.audit.key_files import load_secret
from stream_executor.audit.replay import ReplayFilter
from stream_executor.audit.report import Verdict
from stream_executor.audit.signing import public_bytes
from stream_executor.kafka.appender import Appender
from stream_executor.kafka.gaps import GapProver
from stream_executor.kafka.reader import PartitionReader
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.services.audit_reading import AuditSource, replay, tail
from stream_executor.services.audit_verification import Thoroughness, verify
from stream_executor.services.ceremony import Deployment, perform
from stream_executor.wire.requests import encode_json
from tests.deployment import ADD, TestDeployment, deployment
from tests.history import read_history

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = 6


async def submit(made: TestDeployment) -> None:
    """Send signed requests and one without a token, and wait for their answers."""
    topic = made.topics.requests
    args = pack_value(ValueType.I32, 2) * 2
    async with Appender(made.connection) as appender:
        for number in range(REQUESTS):
            request = ExecutionRequest(
                f"r-{number}", ModuleName("add", "1"), Call("add", args)
            )
            value = encode_json(request)
            token = made.signer().sign(topic, 0, value, now_s=int(time.time()))
            header = [("authorization", b"Bearer " + token)]
            await appender.append(topic, 0, value, header)
        await appender.append(topic, 0, b"no token")
    async with asyncio.timeout(60):
        while len((await read_history(made)).results) <= REQUESTS:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


@pytest.mark.kafka
@pytest.mark.timeout(180)
async def test_a_deployments_log_is_verified_replayed_and_tampered_with(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    damaged = {
        "doubled": "a result is appended again",
        "reordered": "so it stands behind later ones",
        "chain_breaks": "garbage is appended to the audit log",
    }
    async with (
        deployment(kafka_bootstrap, tmp_path, 1, damaged=damaged) as made,
        PartitionReader(made.connection) as reader,
        GapProver(made.connection) as prover,
        Appender(made.connection) as appender,
    ):
        await made.publish("add@1", ADD)
        executor = made.start()
        await executor.ready()
        await submit(made)
        executor.kill()
        operator = public_bytes(made.keys.operator)
        source = AuditSource(reader, made.topics, operator)
        thorough = Thoroughness(
            results=True,
            requests=True,
            prover=prover,
            secret=load_secret(made.keys.folder / "deployment-secret"),
        )
        report = await verify(source, thorough)
        (partition,) = report.partitions
        assert partition.findings == []
        assert report.verdict is Verdict.OK
        assert partition.answered == partition.requests == REQUESTS + 1
        assert partition.results == partition.events

        rows = [r async for r in replay(source, ReplayFilter(module="add"))]
        assert [r["request_id"] for r in rows] == [f"r-{n}" for n in range(REQUESTS)]
        later = ReplayFilter(since_ms=(int(time.time()) + 3600) * 1000)
        assert [r async for r in replay(source, later)] == []
        (last,) = [r async for r in tail(source, 1, follow=False)]
        assert (last["kind"], last["next"]) == ("seal", REQUESTS + 1)

        # Nothing is left to begin.
        again = await perform(
            Deployment(made.prefix, made.view.cluster_id, made.topics),
            made.keys, reader, appender, lambda: 1,
        )  # fmt: skip
        assert again.log_ids == [partition.log_id]
        assert [line for line in again.done if not line.startswith("made")] == []

        # Foreign records change nothing; a second result is found.
        await appender.append(made.topics.audit, 0, b"garbage")
        results = [
            record.value or b""
            async for some in reader.read(
                made.topics.results, 0, 0,
                await reader.end_offset(made.topics.results, 0),
            )
            for record in some
        ]  # fmt: skip
        await appender.append(made.topics.results, 0, results[0])
        report = await verify(source, thorough)
        (partition,) = report.partitions
        assert [f.code for f in partition.findings] == [FindingCode.RESULT_UNEXPECTED]
        assert partition.foreign_count == 1
