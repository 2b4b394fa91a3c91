"""Secrets stay where they are put: a grep through everything that people get to see."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stream_executor.kafka.appender import Appender
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.wire.requests import encode_json
from tests.deployment import ADD, Executor, TestDeployment, deployment

if TYPE_CHECKING:
    from collections.abc import Iterator

VALUE = encode_json(ExecutionRequest("r", ModuleName("add", "1"), Call("add", b"")))


def tree(pid: int) -> Iterator[int]:
    """Give a process and all below it."""
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):  # it may end while we look
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        for child in " ".join((t / "children").read_text() for t in tasks).split():
            yield from tree(int(child))


async def test_no_secret_is_shown_logged_dumped_or_passed_on(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    """At debug level, with forged tokens, a bad reload and a killed worker."""
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        await made.publish("add@1", ADD)
        hidden = await hide(made, tmp_path)
        with dumps_allowed():
            executor = made.start(LOG_LEVEL="debug")
        await executor.ready()
        tokens = await ask_well_and_badly(made)
        hidden |= tokens

        shown = {path: executor.http(path)[1] for path in ("/", "/status", "/health")}
        for arguments in (
            ("--test-config",),
            ("--test-config", "--json"),
            ("doctor",),
            ("status", "--json"),
            ("audit", "tail"),
        ):
            _, out, err = await made.command(*arguments)
            assert out or err, arguments
            shown[" ".join(arguments)] = out + err
        shown |= await with_broken_settings(made)
        processes = list(tree(executor.process.pid))
        assert len(processes) >= 3
        for pid in processes:
            shown[f"arguments of {pid}"] = text_of(pid, "cmdline")
            if pid != executor.process.pid:  # its own the operator has filled
                shown[f"environment of {pid}"] = text_of(pid, "environ")
        await aborted(executor, processes[1])
        assert not core_files(tmp_path)
        shown["the log"] = executor.log.read_text()
        assert await executor.stop() == 0

        for where, text in shown.items():
            for name, secret in hidden.items():
                assert secret not in text, f"{where} shows {name}"


@contextmanager
def dumps_allowed() -> Iterator[None]:
    """Start processes as a shell would that wants core files."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


async def hide(made: TestDeployment, folder: Path) -> dict[str, str]:
    """Give every secret of the deployment, some of them set here."""
    made.settings["JWT_SECRET_PREVIOUS"] = secrets.token_urlsafe(40)
    password = secrets.token_urlsafe(16)
    made.settings["KAFKA_SASL_PASSWORD"] = password
    hidden = {
        "JWT_SECRET": made.settings["JWT_SECRET"],
        "JWT_SECRET_PREVIOUS": made.settings["JWT_SECRET_PREVIOUS"],
        "KAFKA_SASL_PASSWORD": password,
    }
    for file in (folder / "keys").iterdir():
        text = file.read_text().strip()
        if "PRIVATE" in text:
            hidden[file.name] = text.splitlines()[1]
        elif "secret" in file.name:
            hidden[file.name] = text
    assert len(hidden) >= 6, hidden.keys()
    return hidden


async def ask_well_and_badly(made: TestDeployment) -> dict[str, str]:
    """Send a good request, a forged one and junk; give the tokens."""
    topic = made.topics.requests
    good = made.signer().sign(topic, 0, VALUE, now_s=int(time.time())).decode()
    forged = good[:-8] + "AAAAAAAA"
    last = 0
    async with Appender(made.connection) as appender:
        for value, token in ((VALUE, good), (VALUE, forged), (b"{", good), (b"", "x.")):
            header = [("authorization", f"Bearer {token}".encode())]
            last = (await appender.append(topic, 0, value, header)).offset
    await made.result(0, last)
    return {"a token": good, "a forged token": forged}


async def with_broken_settings(made: TestDeployment) -> dict[str, str]:
    """Give what is said of settings that are wrong and secret."""
    shown = {}
    kept = dict(made.settings)
    for name, broken in (
        ("JWT_SECRET", kept["JWT_SECRET"][:20]),
        ("WASM_EXECUTOR_DEPLOYMENT_SECRET", kept["JWT_SECRET"]),
        ("WASM_EXECUTOR_FLEET_KEY", kept["JWT_SECRET"]),
    ):
        made.settings = kept | {name: broken}
        made.settings.pop(f"{name}_FILE", None)
        code, out, err = await made.command("--test-config")
        assert code == 4, (name, out)
        assert name in out + err
        assert broken not in out + err
        shown[f"--test-config with a broken {name}"] = out + err
    made.settings = kept
    return shown


async def aborted(executor: Executor, worker: int) -> None:
    """Abort a worker as a bug in a C library would; return when another runs."""
    (core,) = [
        line for line in text_of(worker, "limits").splitlines() if "core file" in line
    ]
    assert core.split()[4:6] == ["0", "0"]
    os.kill(worker, signal.SIGABRT)
    async with asyncio.timeout(60):
        while worker in tree(executor.process.pid) or not executor.running_lanes():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def core_files(folder: Path) -> list[Path]:
    return list(folder.rglob("core*"))


def text_of(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
