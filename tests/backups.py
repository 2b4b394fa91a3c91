"""A host with an audit.log to back up, and archives that somebody tampered with."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from stream_executor.audit.log_file import AuditLogFile, Chunk
from stream_executor.model.audit import Seal
from stream_executor.services.backup import Made, Plan, back_up
from stream_executor.services.backup_archive import MANIFEST, sum_file
from stream_executor.services.backup_verification import BackupReport, verify_backup
from stream_executor.wire.avro import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
LOG_ID = "ab" * 16
SECRET = "uJ3kq9ZtX0wQpLr7VbNc5MfHs2YdGa8eTiOo1K4E"


def lines(partition: int, first: int, last: int) -> bytes:
    """Give lines as the projection writes them; every third one is a seal."""
    return b"".join(
        json.dumps(
            {
                "time": "2026-11-23T01:00:00.000Z",
                "kind": KINDS[Seal] if seq % 3 == 2 else "request.executed",
                "partition": partition,
                "audit_offset": seq + 1,
                "seq": seq,
                **({"log_id": LOG_ID} if seq % 3 == 2 else {}),
            }
        ).encode()
        + b"\n"
        for seq in range(first, last + 1)
    )


def chunk(partition: int, first: int, last: int) -> Chunk:
    """Give lines that end with a seal, as the writer takes them."""
    numbered = enumerate(lines(partition, first, last).splitlines(keepends=True), first)
    return Chunk(partition, LOG_ID, list(numbered), last + 2)


@dataclass(frozen=True)
class Host:
    """Folders of a host under a root of its own.

    audit.log was rotated twice: partition 0 goes from 0 to 11, partition 1 from 0 to 5.
    """

    root: Path

    @property
    def log(self) -> Path:
        return self.root / "var/log/wasm-executor/audit.log"

    @property
    def position(self) -> Path:
        return self.log.with_name("audit.log.position")

    @property
    def configuration(self) -> Path:
        return self.root / "etc/wasm-executor/config.env"

    @property
    def backups(self) -> Path:
        return self.root / "backup"

    @property
    def plan(self) -> Plan:
        return Plan(self.log, self.backups, self.configuration)

    @property
    def archive(self) -> Path:
        return self.backups / "wasm-audit-20261123.tar.gz"

    def back_up(self) -> Made:
        return back_up(self.plan, NOW)

    def write(self, *chunks: Chunk, rotated: str | None = None) -> None:
        """Have the writer write, after logrotate gave the file another name."""
        with AuditLogFile(self.log, lambda: 0) as file:
            if rotated is not None:
                self.log.rename(self.log.with_name(rotated))
                file.reopen()
            file.append(chunks)

    def files(self) -> dict[str, bytes]:
        """The log's folder, but for the lock and what backups brought."""
        return {
            path.name: path.read_bytes()
            for path in sorted(self.log.parent.iterdir())
            if path.is_file() and path.name not in {"audit.log.lock", MANIFEST}
        }


@contextmanager
def in_memory() -> Iterator[Path]:
    """Give a folder where fsync costs nothing: it is called at a thousand points."""
    memory = Path("/dev/shm")  # noqa: S108 - made there under a name of its own
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def set_up(root: Path) -> Host:
    """Make a host's files."""
    host = Host(root)
    host.log.parent.mkdir(parents=True, mode=0o750)
    host.write(chunk(0, 0, 5), chunk(1, 0, 2))
    host.write(chunk(0, 6, 8), rotated="audit.log-20261121")
    host.write(chunk(0, 9, 11), chunk(1, 3, 5), rotated="audit.log-20261122")
    first = host.log.with_name("audit.log-20261121")
    first.with_name(f"{first.name}.gz").write_bytes(gzip.compress(first.read_bytes()))
    first.unlink()
    host.configuration.parent.mkdir(parents=True, mode=0o750)
    host.configuration.write_text(
        f"AUDIT_LOG_PATH={host.log}\nWASM_EXECUTOR_BACKUP_DIR={host.backups}\n"
        f"JWT_SECRET={SECRET}\n"
    )
    host.configuration.chmod(0o644)
    return host


def verified(archive: Path, *, configuration: bool = True) -> BackupReport:
    with archive.open("rb") as file:
        return verify_backup(archive, file, configuration=configuration)


def members_of(archive: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Give an archive's members, so that a test can write them anew."""
    with tarfile.open(archive) as tar:
        return [
            (info, file.read() if (file := tar.extractfile(info)) else b"")
            for info in tar
        ]


def write_archive(
    archive: Path, content: list[tuple[tarfile.TarInfo, bytes]], *, honest: bool = True
) -> None:
    """Write an archive and its checksum anew; ``honest``: the manifest, too."""
    if honest:
        at = next(i for i, (info, _) in enumerate(content) if MANIFEST in info.name)
        manifest = json.loads(content[at][1])
        manifest["files"] = [
            {
                "name": Path(info.name).name,
                "size_bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            for info, data in content
            if info.isreg() and MANIFEST not in info.name
        ]
        content = [*content]
        content[at] = (content[at][0], json.dumps(manifest).encode())
    with tarfile.open(archive, "w:gz") as tar:
        for info, data in content:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    write_sum(archive)


def write_sum(archive: Path) -> None:
    """Make the checksum beside an archive fit."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    sum_file(archive).write_text(f"{digest}  {archive.name}\n")


def unpack(archive: Path, root: Path) -> None:
    """Do the operations manual's `tar -xzf ARCHIVE -C /`, elsewhere."""
    root.mkdir(exist_ok=True)
    subprocess.run(["tar", "-xzf", archive, "-C", root], check=True)  # noqa: S607


def python(
    script: str, *arguments: Path, within: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a script that may limit or kill itself."""
    return subprocess.run(
        [*within, sys.executable, "-c", script, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def killed_at(point: int, work: Callable[[], object]) -> bool:
    """Have a child do work and kill itself before so many of its calls to the system.

    Counts what it asks of the file system. For a script (``python``): it forks.

    Returns:
        Whether it was killed; False if the work is done with fewer calls.
    """
    left = point

    def strike(event: str, _arguments: object) -> None:
        nonlocal left
        if event == "open" or event.startswith(("os.", "shutil.")):
            left -= 1
            if left == -1:
                os.kill(os.getpid(), signal.SIGKILL)  # an event, too

    child = os.fork()
    if not child:
        sys.addaudithook(strike)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in {0, signal.SIGKILL}, (point, status)
    return status != 0


def manual(command: str, host: Host) -> str:
    """Run a command of the operations manual, with the host's own /backup."""
    ran = subprocess.run(  # noqa: S602 - the manual's commands are the shell's
        command.replace("/backup", str(host.backups)),
        shell=True,
        capture_output=True,
        check=True,
        text=True,
    )
    return ran.stdout
