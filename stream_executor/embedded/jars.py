"""Kafka's jars: pinned by coordinates and SHA-256, fetched once, checked every time.

They lie in ``$XDG_CACHE_HOME/wasm-executor/kafka/<version>/jars`` (``~/.cache`` by
default). Which jars there must be is written by ``tools/lock_kafka_jars.py``, not here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from stream_executor.embedded.errors import EmbeddedKafkaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    # Downloads a jar into a folder that is its own; may raise OSError, RuntimeError.
    Fetch: TypeAlias = Callable[["Jar", Path], Path]

KAFKA_VERSION = "4.3.1"
LOCK = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.lock")
_CONNECTIONS = 4  # more do not make the download faster here
_TIMEOUT_S = 30


class Jar(NamedTuple):
    """One line of the lock: ``group:artifact:version``, bytes, lower-hex SHA-256."""

    coordinate: str
    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.coordinate} {self.size} {self.sha256}"

    @property
    def file_name(self) -> str:
        """The jar's name in Maven's layout."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def parse_lock(text: str) -> list[Jar]:
    """Return the lock's jars in order. The text is ours: a bad line is a ValueError."""
    lines = (line.split(" ") for line in text.splitlines())
    return [Jar(coordinate, int(size), sha) for coordinate, size, sha in lines]


def cache_folder() -> Path:
    """Return where this version's files are kept, outside any checkout; make it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "wasm-executor" / "kafka" / KAFKA_VERSION
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes and threads; it dies with its holder."""
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure_jars(fetch: Fetch | None = None) -> list[Path]:
    """Return Kafka's jars in the lock's order, each with the bytes that the lock names.

    A jar that is missing or has other bytes is fetched (again) and put in place by
    rename, so that a reader never sees half of one; several processes may ask at once,
    one downloads. Shows a bar on a terminal, else one line, and nothing when all is
    there. 46 MB once; afterwards about 40 ms, for hashing.

    Raises:
        EmbeddedKafkaError: the registry cannot be reached, or what it serves is not
            what the lock names. Nothing wrong is left in the cache.
    """
    jars = parse_lock(LOCK.read_text(encoding="utf-8"))
    folder = cache_folder() / "jars"
    folder.mkdir(exist_ok=True)
    if wrong := _wrong(jars, folder):
        with locked(folder.with_name("jars.lock")):
            # Another process may have fetched them while this one waited.
            if wrong := _wrong(jars, folder):
                _fetch_all(wrong, folder, fetch or _from_registry())
    return [folder / jar.file_name for jar in jars]


def _wrong(jars: Sequence[Jar], folder: Path) -> list[Jar]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(_digest, (folder / jar.file_name for jar in jars))
    pairs = zip(jars, digests, strict=True)
    return [jar for jar, digest in pairs if digest != jar.sha256]


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _fetch_all(jars: Sequence[Jar], folder: Path, fetch: Fetch) -> None:
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix="download-") as scratch,
        ThreadPoolExecutor(_CONNECTIONS) as pool,
        _announced(sum(jar.size for jar in jars), folder) as advance,
    ):
        one = partial(_fetch_one, folder=folder, scratch=Path(scratch), fetch=fetch)
        try:
            for jar in pool.map(one, jars):
                advance(jar.size)
        finally:
            pool.shutdown(cancel_futures=True)


def _fetch_one(jar: Jar, *, folder: Path, scratch: Path, fetch: Fetch) -> Jar:
    try:
        file = fetch(jar, scratch)
    except (OSError, RuntimeError) as cause:  # RuntimeError is jgo's "not found"
        raise EmbeddedKafkaError(
            f"Apache Kafka {KAFKA_VERSION} could not be downloaded: the Maven registry "
            f"did not give {jar.coordinate} ({type(cause).__name__}).",
            remedy="Check the network, set HTTPS_PROXY, or name a mirror under "
            f"[repositories] in ~/.config/jgo.conf; or copy the folder {folder} "
            "from a machine that has it.",
        ) from cause
    if (found := _digest(file)) != jar.sha256:
        raise EmbeddedKafkaError(
            f"{jar.coordinate} is not what the lock names: expected SHA-256 "
            f"{jar.sha256}, got {found}. It was not kept.",
            remedy="Try again; if it stays so, do not trust the registry or mirror.",
        )
    file.replace(folder / jar.file_name)
    return jar


def _from_registry() -> Fetch:
    try:
        from jgo.config import GlobalSettings  # noqa: PLC0415 - an extra
        from jgo.maven import MavenContext  # noqa: PLC0415 - an extra
    except ImportError as cause:
        raise EmbeddedKafkaError(
            "Kafka's jars are not here yet, and jgo, which fetches them, is missing.",
            remedy="Run: pip install 'stream-executor[dev]'.",
        ) from cause
    mirrors = GlobalSettings.load().repositories or None

    def fetch(jar: Jar, folder: Path) -> Path:
        maven = MavenContext(
            repo_cache=folder, remote_repos=mirrors, timeout=_TIMEOUT_S
        )
        return Path(maven.create_dependency(jar.coordinate).artifact.resolve())

    return fetch


@contextmanager
def _announced(size: int, folder: Path) -> Iterator[Callable[[int], None]]:
    """Say on stderr that a download runs; give the function that advances the bar."""
    console = Console(stderr=True)
    title = f"Fetching Apache Kafka {KAFKA_VERSION}"
    if not console.is_terminal:
        console.print(
            f"{title}: {size / 1e6:.0f} MB, once, into {folder}", soft_wrap=True
        )
        yield lambda _: None
        return
    columns = TextColumn(title), BarColumn(), DownloadColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda count: progress.advance(task, count)
