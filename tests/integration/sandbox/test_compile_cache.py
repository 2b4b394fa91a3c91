"""The compile cache with real children: warm after a restart, never just believed."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from stream_executor.model.artefact import CacheOutcome
from stream_executor.model.codes import Code
from stream_executor.sandbox.artefact_cache import ArtefactCache
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import LocalSandbox
from tests.integration.sandbox import guests
from tests.integration.sandbox.guests import call, i32, wasm

if TYPE_CHECKING:
    from stream_executor.model.job import Report

KEY = bytes(range(32))
ONE = SandboxConfig(children=1)
ADD = call(guests.ADD, "add", i32(2, 3))
MIB = 2**20
TIGHT = SandboxConfig(
    children=1, compile_wall_s=6.0, compile_cpu_s=2, compile_data_bytes=512 * MIB
)


class Life:
    """One life of a worker's sandbox: starts, runs jobs, ends; what it did is kept."""

    def __init__(
        self, path: Path, config: SandboxConfig = ONE, key: bytes = KEY
    ) -> None:
        self.worthless: set[bytes] = set()
        self.cache = ArtefactCache(
            path, key, 1 << 26, lambda s256: s256 not in self.worthless
        )
        self.sandbox = LocalSandbox(config, self.cache)
        self.sandbox.add(wasm(guests.ADD))

    async def __aenter__(self) -> Self:
        await self.sandbox.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.sandbox.__aexit__(*error)

    async def add(self) -> Report:
        """Run 2 + 3."""
        (report,) = await self.sandbox.run([ADD])
        return report

    @property
    def compiled(self) -> int:
        """How many modules were compiled in this life."""
        return self.sandbox.pool.compiled


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A cache that knows ADD, from an earlier life."""
    folder = tmp_path / "cache"
    async with Life(folder) as first:
        assert (await first.add()).output == i32(5)
        assert (first.compiled, first.cache.outcomes) == (1, {CacheOutcome.MISS: 1})
    return folder


def damage(path: Path) -> None:
    """Flip one bit of the native code."""
    (file,) = path.glob("*.*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def reachable(pid: int) -> list[str]:
    """Give the names of all files that a process has open or mapped."""
    process = Path(f"/proc/{pid}")
    opened = [str(fd.readlink()) for fd in (process / "fd").iterdir()]
    return [*opened, *(process / "maps").read_text().splitlines()]


async def test_a_restart_is_warm(path: Path) -> None:
    async with Life(path) as second:
        second.sandbox._modules.clear()  # the bytes are not even asked for
        assert (await second.add()).output == i32(5)
        assert (second.compiled, second.cache.outcomes) == (0, {CacheOutcome.HIT: 1})
        assert second.cache.size_bytes > 0


@pytest.mark.threat("T-26")
async def test_a_damaged_artefact_is_compiled_anew_and_never_run(path: Path) -> None:
    damage(path)
    async with Life(path) as second:
        assert (await second.add()).output == i32(5)
        assert second.compiled == 1
        assert second.cache.outcomes == {CacheOutcome.DAMAGED: 1}
    async with Life(path) as third:
        assert (await third.add()).output == i32(5)
        assert third.compiled == 0


@pytest.mark.threat("T-26")
async def test_another_deployments_key_makes_everything_foreign(path: Path) -> None:
    async with Life(path, key=bytes(32)) as other:
        assert (await other.add()).output == i32(5)
        assert (other.compiled, other.cache.outcomes) == (1, {CacheOutcome.DAMAGED: 1})


async def test_another_stack_is_another_engine(path: Path) -> None:
    small = SandboxConfig(children=1, max_stack_bytes=512 * 1024)
    async with Life(path, small) as other:
        assert (await other.add()).output == i32(5)
        assert (other.compiled, other.cache.outcomes) == (1, {CacheOutcome.MISS: 1})


@pytest.mark.threat("T-18")
async def test_a_bomb_is_remembered_across_restarts_until_forgotten(
    tmp_path: Path,
) -> None:
    path = tmp_path / "cache"
    bomb = guests.compile_bomb(3000)
    job = call(hashlib.sha256(bomb).digest(), "f")
    async with Life(path, TIGHT) as first:
        first.sandbox.add(bomb)
        first.worthless.add(job.module_s256)  # sent inline: remembered all the same
        (report,) = await first.sandbox.run([job])
        assert (report.code, first.compiled) == (Code.COMPILE_LIMIT, 1)
    async with Life(path, TIGHT) as second:
        (report,) = await second.sandbox.run([job])
        assert (report.code, second.compiled) == (Code.COMPILE_LIMIT, 0)
        assert second.cache.outcomes == {CacheOutcome.REFUSED: 1}
        second.sandbox.pool.forget_refusals()  # nothing changed
        (report,) = await second.sandbox.run([job])
        assert second.cache.outcomes == {CacheOutcome.REFUSED: 1}

        (file,) = (path / "refused").iterdir()
        file.unlink()
        second.sandbox.pool.forget_refusals()
        second.sandbox.add(wasm(guests.ADD))
        second.sandbox._modules[job.module_s256] = wasm(guests.ADD)
        (report,) = await second.sandbox.run([job])
        assert second.cache.outcomes[CacheOutcome.MISS] == 1, "it was looked for anew"


async def test_what_is_not_worth_it_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    async with Life(path) as first:
        first.worthless.add(ADD.module_s256)
        await first.add()
    assert list(path.glob("*.*")) == []


async def test_without_a_usable_folder_everything_runs(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.write_text("a file in its place")
    async with Life(path) as life:
        assert (await life.add()).output == i32(5)
        assert (life.compiled, life.cache.outcomes) == (1, {})


@pytest.mark.threat("T-26")
async def test_children_hold_no_file_of_the_cache(path: Path) -> None:
    """Sealed copies without a name are all that they are handed."""
    async with Life(path) as second:
        await second.add()
        for child in second.sandbox.pool._children:
            for name in reachable(child.process.pid):
                assert str(path) not in name


async def test_only_one_process_at_a_time_compiles_ahead(path: Path) -> None:
    async with Life(path) as one, Life(path) as two:
        async with one.cache.turn():
            other = asyncio.create_task(two.cache.turn().__aenter__())
            done, _ = await asyncio.wait({other}, timeout=0.5)
            assert not done
        async with asyncio.timeout(10):
            await other
