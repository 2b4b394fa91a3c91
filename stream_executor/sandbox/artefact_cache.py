"""The compile cache on disk as the sandbox uses it: asked on the loop, never raising.

A hit saves fetching and compiling; whatever is wrong with the disk costs only that.
What is kept is what the owner says is worth it (published modules, not every module
that somebody sends inline), and every module that was too much to compile, so that a
compile bomb costs its price once, across restarts, too.

Not here: files and their MAC (``artefact_folder``), what is in memory (``modules``).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import hmac
import os
import platform
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog

from stream_executor import __version__
from stream_executor.model.artefact import CacheOutcome
from stream_executor.model.codes import Code
from stream_executor.sandbox.artefact_folder import (
    ArtefactFolder,
    Damage,
    Environments,
)
from stream_executor.sandbox.compile import Artefact, Refusal
from stream_executor.sandbox.engine import config_s256

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from stream_executor.sandbox.config import SandboxConfig

_log = structlog.get_logger(__name__)

FOLDER = "compile-cache"
_LOCK = "ahead.lock"
_LOOK_AGAIN_S = 0.2
T = TypeVar("T")
_LIST_EVERY_S = 600.0
_THREADS = 2  # a look-up need not wait for a write's fsync


class ArtefactCache:
    """Compiled modules that outlive the process.

    Args:
        path: the folder.
        key: of the MAC: 32 bytes that no child sees.
        max_bytes: of the folder.
        worth: whether a module's artefact (by digest) is kept.

    Attributes:
        outcomes: how look-ups ended.
        size_bytes: of the folder, as last seen.
    """

    def __init__(
        self, path: Path, key: bytes, max_bytes: int, worth: Callable[[bytes], bool]
    ) -> None:
        self._path, self._key, self._max_bytes = path, key, max_bytes
        self._worth = worth
        self._folder: ArtefactFolder | None = None
        self._threads = ThreadPoolExecutor(_THREADS, "compile-cache")
        self._writing: set[asyncio.Task[None]] = set()
        self._remembered: set[bytes] = set()  # refusals known to be on disk
        self._stamp = 0
        self._listed_at = time.monotonic()
        self._failed = False
        self.outcomes: Counter[CacheOutcome] = Counter()
        self.size_bytes = 0

    async def open(self, config: SandboxConfig, engine: str) -> None:
        """Make the folder ready; without one, nothing is found and nothing kept."""

        def opened() -> ArtefactFolder:
            folder = ArtefactFolder(
                self._path,
                self._key,
                environments_of(config, engine),
                self._max_bytes,
                config.max_artefact_bytes,
            )
            self.size_bytes = folder.make_room()
            self._stamp = folder.refusals_stamp()
            return folder

        with self._tolerated("open"):
            self._folder = await self._on_thread(opened)

    async def close(self) -> None:
        """Finish what is being written and let the folder go."""
        if self._writing:
            await asyncio.wait(self._writing)
        await asyncio.to_thread(self._threads.shutdown)
        if self._folder is not None:
            self._folder.close()
            self._folder = None

    async def find(self, s256: bytes) -> Artefact | Refusal | None:
        """Give what is known of a module; an artefact's descriptor is the caller's."""
        folder = self._folder
        if folder is None:
            return None
        found: Artefact | Refusal | Damage | None = None
        with self._tolerated("read"):
            found = await self._on_thread(_look, folder, s256)
        match found:
            case Artefact():
                self.outcomes[CacheOutcome.HIT] += 1
                return found
            case Refusal():
                self._remembered.add(s256)
                self.outcomes[CacheOutcome.REFUSED] += 1
                return found
            case Damage():
                self.outcomes[CacheOutcome.DAMAGED] += 1
                _log.warning(
                    "compile_cache.damaged", module=s256.hex(), damage=found.value
                )
            case None:
                self.outcomes[CacheOutcome.MISS] += 1
        return None

    def keep(self, s256: bytes, outcome: Artefact | Refusal) -> None:
        """Write an outcome in the background, if it is worth it; returns at once."""
        folder = self._folder
        if folder is None:
            return
        if isinstance(outcome, Artefact):
            if self._worth(s256):
                # The caller may close its descriptor meanwhile.
                mine = outcome._replace(fd=os.dup(outcome.fd))
                self._in_background(self._keep_artefact(folder, s256, mine))
        elif outcome.code == Code.COMPILE_LIMIT:  # others are found again in a moment
            self._in_background(self._keep_refusal(folder, s256, outcome))

    def forgotten(self) -> frozenset[bytes]:
        """Give the modules that are remembered as refused no more.

        Somebody told the folder so, they are a day old, or became too many. Costs one
        look at the folder's time as long as nothing changes, a listing now and then.
        """
        folder = self._folder
        gone: frozenset[bytes] = frozenset()
        if folder is not None and not self._writing:
            with self._tolerated("list"):
                now = time.monotonic()
                due = now - self._listed_at > _LIST_EVERY_S
                if due or folder.refusals_stamp() != self._stamp:
                    self._listed_at = now
                    self._stamp, there = folder.refusals()
                    gone = frozenset(self._remembered - there)
                    self._remembered &= there
        return gone

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Be the only process on this host that compiles ahead into this folder."""
        fd = -1
        with self._tolerated("lock"):
            fd = os.open(
                self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        try:
            # The kernel tells no event loop.
            while fd >= 0 and not _locked(fd):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_AGAIN_S)
            yield
        finally:
            if fd >= 0:
                os.close(fd)

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _keep_artefact(
        self, folder: ArtefactFolder, s256: bytes, artefact: Artefact
    ) -> None:
        try:
            with self._tolerated("write"):
                await self._on_thread(folder.write_artefact, s256, artefact)
                self.size_bytes = await self._on_thread(folder.make_room)
        finally:
            os.close(artefact.fd)

    async def _keep_refusal(
        self, folder: ArtefactFolder, s256: bytes, refusal: Refusal
    ) -> None:
        with self._tolerated("write"):
            await self._on_thread(folder.write_refusal, s256, refusal)
            self._remembered.add(s256)
            self.size_bytes = await self._on_thread(folder.make_room)

    async def _on_thread(self, work: Callable[..., T], *arguments: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, work, *arguments)

    @contextlib.contextmanager
    def _tolerated(self, action: str) -> Iterator[None]:
        """Say once that the disk does not serve; guests run without it."""
        try:
            yield
        except OSError as error:
            if not self._failed:
                self._failed = True
                _log.warning(
                    "compile_cache.unusable", path=str(self._path), action=action,
                    reason=str(error),
                )  # fmt: skip
        else:
            self._failed = False


def key_of(deployment_secret: bytes) -> bytes:
    """Give the key of the cache's MACs: the same for every worker of a deployment."""
    return hmac.digest(
        deployment_secret, b"wasm-executor/compile-cache/key/v1", "sha256"
    )


def environments_of(config: SandboxConfig, engine: str) -> Environments:
    """Give what an artefact and a refusal depend on, besides the module.

    Args:
        config: stack and limits.
        engine: ``engine_identity``: the native library's bytes.
    """
    known = (
        __version__, _sources_s256(), engine, config_s256(config.max_stack_bytes),
        _cpu(),
    )  # fmt: skip
    limits = (
        config.compile_wall_s, config.compile_cpu_s, config.compile_data_bytes,
        config.max_artefact_bytes, config.max_module_bytes,
    )  # fmt: skip
    return Environments(_digest(known), _digest((known, limits)))


def _digest(value: object) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(value)).digest()


def _sources_s256() -> bytes:
    """Give the digest of this room's code: it judges modules and describes them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def _cpu() -> str:
    """Name the machine and its CPU's features, which native code may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    features = (line for line in lines if line.startswith(("flags", "Features")))
    return f"{platform.machine()} {next(features, '')}"


def _look(folder: ArtefactFolder, s256: bytes) -> Artefact | Refusal | Damage | None:
    return folder.read_refusal(s256) or folder.read_artefact(s256)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
