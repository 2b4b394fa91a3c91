"""``audit.log`` holds exactly the audit topic's leaves, whatever befalls its writer."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import signal
import subprocess
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from stream_executor.audit.log_file import RESTORED
from stream_executor.kafka.appender import Appender
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.requests import encode_json
from tests.deployment import ADD, Executor, TestDeployment, deployment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(180)

PARTITIONS = 2


def request(function: str) -> bytes:
    call = Call(function, pack_value(ValueType.I32, 1) * 2)
    return encode_json(ExecutionRequest("FAILED-looks", ModuleName("add", "1"), call))


GOOD, FAILING = request("add"), request("missing")


class Host:
    """One deployment whose executors share one ``audit.log``."""

    def __init__(self, made: TestDeployment) -> None:
        self.made = made
        self.folder = made.folder / "log"
        self.path = self.folder / "audit.log"
        self.failed = 0

    def rotated(self, second: int) -> Path:
        """The name that logrotate gives the file in a second since 1970."""
        return self.folder / f"audit.log-{second}"

    def start(self) -> Executor:
        self.folder.mkdir(exist_ok=True)
        return self.made.start(
            ENABLE_AUDIT_LOGGING="true", AUDIT_LOG_PATH=str(self.path)
        )

    async def ask(self, count: int) -> None:
        """Ask; every third request fails, every fourth is refused for its token."""
        last: dict[int, int] = {}
        async with Appender(self.made.connection) as appender:
            for number in range(count):
                partition = number % PARTITIONS
                if number % 4 == 3:
                    topic = self.made.topics.requests
                    offset = (await appender.append(topic, partition, GOOD)).offset
                    self.failed += 1
                elif number % 3 == 2:
                    offset = await self.made.ask(appender, partition, FAILING)
                    self.failed += 1
                else:
                    offset = await self.made.ask(appender, partition, GOOD)
                last[partition] = offset
        for partition, offset in last.items():
            await self.made.result(partition, offset)

    def lines(self) -> list[dict[str, Any]]:
        """Every line of the file and its rotated ones, oldest first."""
        rows = []
        paths = sorted(self.folder.glob("audit.log-*"))
        for path in [*paths, *self.folder.glob("audit.log")]:
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            rows += [json.loads(line) for line in data.splitlines()]
        return rows

    async def backup(self, command: str) -> str:
        code, out, errors = await self.made.command("backup", command)
        assert code == 0, (out, errors)
        return out

    async def leaves(self) -> list[tuple[int, int]]:
        """Partition and audit offset of every committed audit record."""
        return [
            (partition, record.offset)
            for partition in range(PARTITIONS)
            for record in await self.made.records(self.made.topics.audit, partition)
        ]

    async def complete(self) -> list[dict[str, Any]]:
        """Wait until the file holds every leaf; each is there once, in order."""
        async with asyncio.timeout(60):
            while True:
                wanted = await self.leaves()
                rows = [r for r in self.lines() if r["kind"] != RESTORED]
                if len(rows) >= len(wanted) and wanted == await self.leaves():
                    break
                await asyncio.sleep(0.1)
        places = [(row["partition"], row["audit_offset"]) for row in rows]
        for partition in range(PARTITIONS):
            mine = [place for place in places if place[0] == partition]
            assert mine == [place for place in wanted if place[0] == partition]
            seqs = [row["seq"] for row in rows if row["partition"] == partition]
            assert seqs == list(range(len(seqs)))
        return rows


def writer_of(executor: Executor) -> dict[str, Any]:
    _, text = executor.http("/status")
    status: dict[str, Any] = json.loads(text)["service"]["audit_log"]
    return status


def shell(line: str, folder: Path) -> str:
    return subprocess.check_output(["/bin/bash", "-ec", line], cwd=folder, text=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(0.05)


@asynccontextmanager
async def host(bootstrap: str, folder: Path) -> AsyncIterator[Host]:
    async with deployment(bootstrap, folder, PARTITIONS) as made:
        await made.publish("add@1", ADD)
        yield Host(made)


@pytest.mark.needs("logrotate")
@pytest.mark.needs("jq")
async def test_nothing_is_lost_or_doubled_by_kills_and_rotation(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with host(kafka_bootstrap, tmp_path) as one:
        executor = one.start()
        await executor.ready()
        asking = asyncio.create_task(one.ask(160))
        rules = tmp_path / "logrotate.conf"
        rules.write_text(
            f"{one.path} {{\n daily\n rotate 2555\n dateext\n dateformat -%s\n"
            " compress\n delaycompress\n missingok\n create 0640\n"
            f" postrotate\n  kill -HUP {executor.process.pid}\n endscript\n}}\n"
        )
        for turn in range(4):
            await until(lambda: writer_of(executor)["writing"])
            if turn % 2:
                # Two rotations within a second would want one name.
                await until(lambda: not one.rotated(int(time.time())).exists())
                shell("logrotate -f -s ../state ../logrotate.conf", one.folder)
            else:
                pid = writer_of(executor)["pid"]
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)
                    await until(lambda: writer_of(executor)["pid"] != pid)  # noqa: B023
        await asking
        rows = await one.complete()
        assert len(list(one.folder.glob("audit.log-*"))) == 2
        assert list(one.folder.glob("audit.log-*.gz"))

        failed = [row for row in rows if row.get("status") == "FAILED"]
        assert sum(row["count"] for row in failed) == one.failed
        found = shell(
            "(cat audit.log-*[0-9] audit.log; zcat audit.log-*.gz) | grep FAILED",
            one.folder,
        )
        assert len(found.splitlines()) == len(failed)
        shell("set -o pipefail; tail -1000 audit.log | jq .", one.folder)

        # What the workers do at last is in the file when the service has ended.
        await one.ask(20)
        assert await executor.stop() == 0
        wanted = await one.leaves()
        assert len([r for r in one.lines() if r["kind"] != RESTORED]) == len(wanted)
        assert not [row for row in one.lines() if row["kind"] == RESTORED]


async def test_a_full_disk_a_second_executor_and_an_older_state(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with host(kafka_bootstrap, tmp_path) as one:
        first = one.start()
        await first.ready()
        await one.ask(12)
        await one.complete()
        one.made.settings |= {
            "ENABLE_AUDIT_LOGGING": "true",
            "AUDIT_LOG_PATH": str(one.path),
            "WASM_EXECUTOR_BACKUP_DIR": str(tmp_path / "backup"),
        }
        await one.backup("now")

        # The disk is full: said everywhere, and requests are answered all the same.
        pid = writer_of(first)["pid"]
        size = one.path.stat().st_size
        unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 99, -1))
        await one.ask(12)
        await until(lambda: "not written" in first.http("/health")[1])
        assert first.http("/health")[0] == 200
        assert "audit_log.waiting" in first.log.read_text()
        assert '"remedy":"df -h' in first.log.read_text()
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        await one.complete()
        await until(lambda: "not written" not in first.http("/health")[1])

        # A second executor on the host stands by and takes over.
        second = one.start()
        await second.ready()
        await until(lambda: writer_of(second)["standby"])
        assert "not written" not in second.http("/health")[1]
        first.kill()
        await until(lambda: writer_of(second)["writing"])
        await one.ask(12)
        await one.complete()
        assert await second.stop() == 0

        # The backup from before is put back.
        await one.backup("restore")
        third = one.start()
        await third.serving(PARTITIONS)  # and what its lanes wrote at first is there
        rows = await one.complete()
        failed = [row["count"] for row in rows if row.get("status") == "FAILED"]
        assert sum(failed) == one.failed
        [restored] = [row for row in one.lines() if row["kind"] == RESTORED]
        assert len(restored["reached"]) == PARTITIONS
        assert "audit_log.restored" in third.log.read_text()
        code, _, errors = await one.made.command("audit", "verify")
        assert code == 0, errors
        await one.backup("now")
        assert f"({len(rows) + 1} lines)" in await one.backup("verify")
