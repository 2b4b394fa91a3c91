"""The supervisor with real processes; only what a worker does is made up."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.signing import public_bytes, verify_certificate
from stream_executor.http.server import listen
from stream_executor.model.audit import Certificate
from stream_executor.model.errors import ConfigError
from stream_executor.services import supervisor as module
from stream_executor.services.notify import Notifier
from stream_executor.services.slots import Slots
from stream_executor.services.supervised import INHERITED, Patience
from stream_executor.services.supervisor import Supervisor
from stream_executor.services.worker_process import DRAIN_MARGIN_S
from stream_executor.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

FAKE = Path(__file__).with_name("fake_worker.py")
FAKE_AUDIT_LOG = Path(__file__).with_name("fake_audit_log.py")
FLEET_KEY = bytes(range(200, 232))
SECRET = "vG7b/Qx2+nT9mJp4LzR8wYc1KdHs6FeA0uViXoNq"
QUICK = Patience(first_s=0.01, most_s=0.05, steady_s=60, silence_s=60)


class Manager:
    """What systemd would hear."""

    def __init__(self, folder: Path) -> None:
        self._address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._address)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def notifier(self, watchdog_s: float | None = None) -> Notifier:
        return Notifier(self._address, watchdog_s)

    async def hears(self, message: str) -> None:
        loop = asyncio.get_running_loop()
        while not any(text.startswith(message) for text in self.heard):
            self.heard.append((await loop.sock_recv(self._socket, 4096)).decode())

    def close(self) -> None:
        self._socket.close()


class Service:
    """One supervisor in this process, with its fake workers' notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.notes.mkdir()
        self.manager = Manager(folder)
        self.task: asyncio.Task[int] | None = None

    def settings(self, **values: str) -> Settings:
        with listen("127.0.0.1", 0) as free:
            port = free.getsockname()[1]
        key = base64.b64encode(FLEET_KEY).decode()
        defaults = {
            "WASM_EXECUTOR_ENV_FILE": "/dev/null",
            "JWT_SECRET": SECRET,
            "METRICS_PORT": str(port),
            "WASM_EXECUTOR_STATE_DIR": str(self.folder / "state"),
            "WASM_EXECUTOR_INSTANCE_ID": "host",
            "ENABLE_AUDIT_LOGGING": "false",
            "AUDIT_LOG_PATH": str(self.folder / "audit.log"),
            "WASM_EXECUTOR_OPERATOR_PUBLIC_KEY": key,
            "WASM_EXECUTOR_FLEET_KEY": key,
            "WASM_EXECUTOR_DEPLOYMENT_SECRET": key,
        }
        return load(environment=defaults | values)

    def make(
        self,
        behaviour: str,
        *,
        patience: Patience = QUICK,
        watchdog_s: float | None = None,
        read: Callable[[], Settings] | None = None,
        audit_log_command: Sequence[str] = (),
        **values: str,
    ) -> Supervisor:
        command = (sys.executable, str(FAKE), behaviour, str(self.notes))
        recorded = (sys.executable, str(FAKE_AUDIT_LOG), str(self.notes))
        return Supervisor(
            self.settings(**values),
            read,
            worker_command=command,
            audit_log_command=audit_log_command or recorded,
            patience=patience,
            notifier=self.manager.notifier(watchdog_s),
        )

    async def start(self, behaviour: str, **options: Any) -> Supervisor:
        made = self.make(behaviour, **options)
        self.task = asyncio.create_task(made.run())
        return made

    async def ended(self) -> int:
        assert self.task is not None
        async with asyncio.timeout(30):
            return await self.task

    def names(self) -> list[str]:
        return sorted(path.name for path in self.notes.glob("[a-z]*"))

    async def note(self, name: str) -> Any:
        """Wait for a file of a fake worker."""
        await until((self.notes / name).exists)
        text = (self.notes / name).read_text()
        return msgspec.json.decode(text) if text.startswith("{") else text


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    made = Service(tmp_path)
    yield made
    if made.task is not None and not made.task.done():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        await made.task
    made.manager.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has no event: a file of another process, a report taken in."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - as the docstring says
            await asyncio.sleep(0.01)


async def get(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
    )
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def gone(pid: int) -> None:
    """Wait until a process has ended, whoever its parent is."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def test_it_is_ready_when_every_worker_has_reported(service: Service) -> None:
    supervisor = await service.start("steady", WORKERS="2")
    await service.manager.hears("READY=1")
    status, body = await get(supervisor.port, "/ready")
    assert status == 200, body
    assert [worker.instance for worker in supervisor.status.workers] == [
        "host-0",
        "host-1",
    ]
    _, metrics = await get(supervisor.port, "/metrics")
    assert "wasm_executions_total 4.0" in metrics
    assert "wasm_concurrent_executions 2.0" in metrics
    assert "wasm_executor_lag_offsets 8.0" in metrics
    await service.manager.hears("STATUS=2 of 2 lanes able, lag 8, 4 in flight")


async def test_the_audit_log_is_written_to_the_workers_end_without_a_secret(
    service: Service,
) -> None:
    supervisor = await service.start("steady", WORKERS="2", ENABLE_AUDIT_LOGGING="true")
    note = await service.note("audit-log")
    assert SECRET not in str(note)
    assert not {"fleet_key", "deployment_secret"} & set(note["orders"])
    assert set(note["environment"]) <= {*INHERITED, "LC_CTYPE"}
    await until(lambda: supervisor.status.audit_log.writing)  # type: ignore[union-attr]
    supervisor.stop()
    assert await service.ended() == 0
    drained = (service.notes / "audit-log-drained").read_text()
    assert drained == "drained-0 drained-1"


async def test_sigterm_drains_the_workers_and_ends_with_0(service: Service) -> None:
    supervisor = await service.start("steady", WORKERS="2")
    await service.manager.hears("READY=1")
    pids = [worker.pid for worker in supervisor.status.workers]
    os.kill(os.getpid(), signal.SIGTERM)
    assert await service.ended() == 0
    assert {"drained-0", "drained-1"} <= set(service.names())
    await service.manager.hears("STOPPING=1")
    asked_us = service.manager.heard[-1].partition("EXTEND_TIMEOUT_USEC=")[2]
    waits_s = 20 + DRAIN_MARGIN_S + module.AUDIT_LOG_FINISH_S
    assert int(asked_us) > waits_s * 1e6  # all that it may wait for, one after another
    for pid in pids:
        assert pid is not None
        await gone(pid)


async def test_metrics_and_liveness_answer_before_any_worker_does(
    service: Service,
) -> None:
    supervisor = await service.start("silent")
    await service.note("started-0-0")
    _, metrics = await get(supervisor.port, "/metrics")
    assert "wasm_executions_total 0.0" in metrics
    assert "wasm_executions_failed_total 0.0" in metrics
    assert (await get(supervisor.port, "/live"))[0] == 200
    assert (await get(supervisor.port, "/health"))[0] == 503
    assert (await get(supervisor.port, "/ready"))[0] == 503


async def test_a_worker_that_dies_is_started_anew_with_another_key(
    service: Service,
) -> None:
    supervisor = await service.start("crash")
    first = await service.note("started-0-0")
    second = await service.note("started-0-1")
    await service.manager.hears("READY=1")
    assert first["instance"] == second["instance"] == "host-0"
    assert first["incarnation"] != second["incarnation"]
    assert first["process_secret_key"] != second["process_secret_key"]
    (worker,) = supervisor.status.workers
    assert worker.restarts == 1
    await until(lambda: supervisor.status.workers[0].ready)
    _, metrics = await get(supervisor.port, "/metrics")
    assert "wasm_executor_worker_restarts_total 1.0" in metrics
    assert "wasm_executions_total 4.0" in metrics  # counts outlive their worker
    assert "wasm_concurrent_executions 1.0" in metrics  # gauges do not


async def test_a_process_key_is_certified_and_the_fleet_key_stays(
    service: Service,
) -> None:
    await service.start("steady")
    note = await service.note("started-0-0")
    certificate = msgspec.convert(note["certificate"], Certificate)
    verify_certificate(certificate)
    secret = bytes.fromhex(note["process_secret_key"])
    process_key = Ed25519PrivateKey.from_private_bytes(secret)
    assert certificate.process_key == public_bytes(process_key)
    fleet = Ed25519PrivateKey.from_private_bytes(FLEET_KEY)
    assert certificate.fleet_key == public_bytes(fleet)
    # LC_CTYPE is Python's own doing (PEP 538).
    assert set(note["environment"]) <= {*INHERITED, "LC_CTYPE"}


async def test_a_worker_that_refuses_its_configuration_ends_the_service(
    service: Service,
) -> None:
    await service.start("refuse")
    with pytest.raises(ConfigError, match="cannot be locked down"):
        await service.ended()
    assert service.names() == ["started-0-0"]  # no loop of restarts


async def test_an_audit_log_writer_that_refuses_is_tried_again(
    service: Service,
) -> None:
    refusing = (sys.executable, "-Sc", "raise SystemExit(4)")
    supervisor = await service.start(
        "steady", audit_log_command=refusing, ENABLE_AUDIT_LOGGING="true"
    )
    await service.manager.hears("READY=1")

    def tried() -> bool:
        status = supervisor.status.audit_log
        return status is not None and status.restarts > 1 and bool(status.note)

    await until(tried)
    assert service.task is not None
    assert not service.task.done()


async def test_a_worker_that_will_not_drain_is_killed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_MARGIN_S", 0.0)
    supervisor = await service.start("stubborn", WASM_EXECUTOR_DRAIN_SECONDS="1")
    await service.manager.hears("READY=1")
    pid = supervisor.status.workers[0].pid
    assert pid is not None
    os.kill(os.getpid(), signal.SIGTERM)
    assert await service.ended() == 0
    await gone(pid)


async def test_a_second_interrupt_does_not_wait(service: Service) -> None:
    await service.start("stubborn")
    await service.manager.hears("READY=1")
    os.kill(os.getpid(), signal.SIGINT)
    await service.manager.hears("STOPPING=1")
    os.kill(os.getpid(), signal.SIGINT)
    assert await service.ended() == 130


async def test_a_worker_that_goes_silent_is_replaced(service: Service) -> None:
    impatient = Patience(first_s=0.01, most_s=0.05, steady_s=60, silence_s=5)
    supervisor = await service.start("silent", patience=impatient)
    first = await service.note("started-0-0")
    await service.note("started-0-1")
    await gone(first["pid"])
    assert supervisor.status.workers[0].restarts >= 1


async def test_a_worker_that_sends_nonsense_is_replaced(service: Service) -> None:
    supervisor = await service.start("babble")
    await service.note("started-0-1")
    assert supervisor.status.workers[0].restarts >= 1
    assert not supervisor.status.workers[0].ready


async def test_what_a_dead_worker_left_behind_is_killed_with_it(
    service: Service,
) -> None:
    await service.start("litter")
    litter = int(await service.note("litter"))
    await service.note("started-0-1")
    await gone(litter)


async def test_a_stop_during_the_wait_for_a_restart_does_not_wait(
    service: Service,
) -> None:
    slow = Patience(first_s=600, most_s=600)
    supervisor = await service.start("crash", patience=slow)
    await until(lambda: any(w.restarts for w in supervisor.status.workers))
    assert "exit code 1" in supervisor.status.workers[0].note
    supervisor.stop()
    assert await service.ended() == 0
    assert service.names() == ["started-0-0"]


async def test_sighup_reaches_workers_and_those_that_follow(service: Service) -> None:
    fresh = service.settings(LOG_LEVEL="warn", MAX_FUEL="7")
    supervisor = await service.start("steady", read=lambda: fresh)
    await service.manager.hears("READY=1")
    service.manager.heard.clear()
    os.kill(os.getpid(), signal.SIGHUP)
    assert await service.note("reloaded-0") == "warn"
    await service.manager.hears("RELOADING=1\nMONOTONIC_USEC=")
    await service.manager.hears("READY=1")
    pid = supervisor.status.workers[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    second = await service.note("started-0-1")
    assert second["log_level"] == "warn"
    assert second["fuel"] == 5_000_000  # a limit changes with a restart only


async def test_a_reload_that_is_refused_changes_nothing(service: Service) -> None:
    def refuse() -> Settings:
        raise SettingsError(["MAX_FUEL=0: no"])

    supervisor = await service.start("steady", read=refuse)
    await service.manager.hears("READY=1")
    service.manager.heard.clear()
    os.kill(os.getpid(), signal.SIGHUP)
    await service.manager.hears("READY=1")
    assert supervisor.status.workers[0].ready


async def test_the_watchdog_gets_its_signs_of_life(service: Service) -> None:
    await service.start("steady", watchdog_s=0.3)
    for _ in range(3):
        service.manager.heard.clear()
        await service.manager.hears("WATCHDOG=1")


async def test_a_taken_port_stops_the_start_before_any_worker(
    service: Service,
) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        made = service.make("steady", METRICS_PORT=port)
        with pytest.raises(ConfigError, match="METRICS_PORT"):
            await made.run()
    assert service.names() == []
    Slots(service.folder / "state", 1).release()  # the slot is free again


async def test_what_running_needs_is_asked_for_before_anything_starts(
    service: Service,
) -> None:
    settings = load(
        environment={"WASM_EXECUTOR_ENV_FILE": "/dev/null", "JWT_SECRET": SECRET}
    )
    with pytest.raises(SettingsError, match="WASM_EXECUTOR_FLEET_KEY"):
        Supervisor(settings)


def test_two_supervisors_of_a_host_take_different_slots(tmp_path: Path) -> None:
    first = Slots(tmp_path, 2)
    second = Slots(tmp_path, 1)
    assert (first.numbers, second.numbers) == ([0, 1], [2])
    first.release()
    third = Slots(tmp_path, 3)
    assert third.numbers == [0, 1, 3]
    second.release()
    third.release()


def test_a_state_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "slots").write_text("")
    with pytest.raises(ConfigError, match="WASM_EXECUTOR_STATE_DIR"):
        Slots(tmp_path, 1)


def title_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


PROGRAM = """
import sys
from pathlib import Path
from stream_executor.services import supervisor
from stream_executor.settings import load
supervisor.Supervisor.__init__.__kwdefaults__["worker_command"] = (
    sys.executable, sys.argv[1], "steady", sys.argv[2])
sys.exit(supervisor.run_service(lambda: load(Path(sys.argv[3]), {})))
"""


@contextlib.asynccontextmanager
async def own_process(service: Service) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the service as a process of its own, configured by a file."""
    config = service.folder / "config.env"
    key = base64.b64encode(FLEET_KEY).decode()
    config.write_text(
        f'JWT_SECRET="{SECRET}"  # quoted\n'
        f"METRICS_PORT={service.settings().metrics_port}\n"
        f"WORKERS=2\nWASM_EXECUTOR_STATE_DIR={service.folder / 'state'}\n"
        f"WASM_EXECUTOR_OPERATOR_PUBLIC_KEY={key}\nWASM_EXECUTOR_FLEET_KEY={key}\n"
        f"WASM_EXECUTOR_DEPLOYMENT_SECRET={key}\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, FAKE, service.notes, config,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_a_killed_supervisor_leaves_no_worker(service: Service) -> None:
    async with own_process(service) as process:
        pids = [(await service.note(f"started-{n}-0"))["pid"] for n in (0, 1)]
        process.kill()
        for pid in pids:
            await gone(pid)
    assert not any(name.startswith("drained") for name in service.names())


async def test_a_stopped_service_logs_lines_of_json_and_no_secret(
    service: Service,
) -> None:
    async with own_process(service) as process:
        for number in (0, 1):
            await service.note(f"started-{number}-0")
        title = title_of(process.pid)
        assert title.startswith(b"wasm-executor: supervisor")
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0
    events = [msgspec.json.decode(line) for line in errors.splitlines()]
    assert events[0]["event"] == "supervisor.started"
    assert events[-1]["event"] == "supervisor.stopped"
    assert SECRET not in errors.decode()
    assert "error" not in errors.decode().lower()
