"""``dev`` as a process, and everything that is done against it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Producer

from stream_executor.kafka.connection import KafkaConnection
from tests.acceptance.cli_runner import Cli
from tests.history import assert_sound_at

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
EXAMPLES = Path(__file__).parents[2] / "examples" / "modules"
CALL = ("add@1", "--function", "add", "--arg", "i32:2", "--arg", "i32:3")


@dataclass
class Dev:
    """A running ``wasm-executor dev`` and what it said."""

    process: subprocess.Popen[bytes]
    said: dict[str, Any]
    cli: Cli

    def assert_sound(self) -> None:
        """What it did is without fault, as long as its broker still runs."""
        bootstrap = self.said["bootstrap_servers"]
        assert_sound_at(KafkaConnection(bootstrap_servers=bootstrap))

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode


def start(folder: Path, *options: str) -> Dev:
    cli = Cli(folder)
    process = cli.start("dev", "--json", *options)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1].decode())
    said = json.loads(line)
    return Dev(process, said, cli.with_options("--credentials", said["credentials"]))


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    running = start(tmp_path_factory.mktemp("dev"), "--partitions", "2")
    yield running
    running.assert_sound()
    running.stop()


def test_the_line_to_copy_works(dev: Dev) -> None:
    ran = subprocess.run(  # noqa: S602 - pasted, as a person would
        dev.said["submit"],
        shell=True,
        capture_output=True,
        env=dev.cli.variables,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, b"i32:5\n"), ran.stderr


def test_a_request_is_submitted_answered_and_its_story_told(dev: Dev) -> None:
    sent = dev.cli("submit", *CALL, "--request-id", "story-1", "--json")
    assert sent.code == 0, sent.err
    place = sent.object
    assert place["schema"] == "wasm-executor/submission/v1"
    name = f"{place['topic']}/{place['partition']}/{place['offset']}"
    story = _until_answered(dev, name)
    assert [step["name"] for step in story["steps"]] == [
        "produced", "verified", "run", "committed", "sealed",
    ]  # fmt: skip
    assert story["result"]["outputs"] == [{"i32": 5}]
    assert story["event"]["sub"] == "first-requester"
    by_id = dev.cli("request", "show", "story-1", "--json").objects
    assert [one["offset"] for one in by_id] == [place["offset"]]
    assert "sealed" in dev.cli("request", "show", name).out
    short = f"{place['partition']}/{place['offset']}"
    assert dev.cli("request", "show", short).code == 0


def test_what_was_never_asked_is_not_found(dev: Dev) -> None:
    for name in ("no-such-id", "wasm.requests/0/999999", "other.topic/0/0"):
        ran = dev.cli("request", "show", name)
        assert (ran.code, "error[NOT_FOUND]" in ran.err) == (2, True), ran
    ran = dev.cli("submit", "no-such-module")
    assert (ran.code, "module list" in ran.err) == (2, True)


def test_a_module_is_published_shown_run_and_never_changes(dev: Dev) -> None:
    upper = str(EXAMPLES / "upper.wat")
    first = dev.cli("module", "publish", upper, "--name", "upper@7", "--json")
    assert first.code == 0, first.err
    assert first.object["new"] is True
    assert dev.cli("module", "publish", upper, "--name", "upper@7", "--json").object[
        "new"
    ] is False  # fmt: skip
    ran = dev.cli("submit", "upper@7", "--input", "-", "--wait", stdin=b"quiet please")
    assert (ran.code, ran.out) == (0, "QUIET PLEASE"), ran.err
    by_digest = dev.cli(
        "submit", f"sha256:{first.object['sha256']}", "--input", "-", "--wait",
        stdin=b"x",
    )  # fmt: skip
    assert by_digest.out == "X"
    other = dev.cli("module", "publish", str(EXAMPLES / "add.wat"), "--name", "upper@7")
    assert (other.code, "never changes" in other.err) == (2, True), other
    listed = [one["module"] for one in dev.cli("module", "list", "--json").objects]
    assert listed[0] == "add@1"
    assert "upper@7" in listed
    shown = dev.cli("module", "show", "upper@7", "--json").object
    assert "run(i32, i32) -> (i64)" in shown["exports"]


def test_what_no_worker_would_run_is_not_published(dev: Dev) -> None:
    bad = dev.cli.folder / "bad.wat"
    bad.write_text('(module (func (export "f") (result i32) i64.const 1))')
    asked = dev.cli("submit", str(bad), "--function", "f", "--wait", "--json").object
    assert asked["code"] == "invalid_wasm"
    ran = dev.cli("module", "publish", str(bad))
    assert ran.code == 2, ran
    assert ran.err.startswith(f"error[REFUSED]: {asked['code']}: the engine refuses")
    bad.write_text('(module (func (export "f") (result i32) i32.const 1))')
    assert dev.cli("module", "publish", str(bad)).code == 0  # the name is still free


def test_a_file_runs_inline_and_gives_what_it_gives_locally(dev: Dev) -> None:
    count = str(EXAMPLES / "count.wat")
    there = dev.cli("submit", count, "--stdin", "-", "--wait", "--json", stdin=b"abc")
    here = Cli(dev.cli.folder)("invoke", count, "--stdin", "-", "--json", stdin=b"abc")
    assert there.code == here.code == 0, there.err
    for name in ("stdout", "exit_code", "fuel_consumed", "module_s256", "status"):
        assert there.object[name] == here.object[name]


def test_an_unsuccessful_submit_exits_5(dev: Dev) -> None:
    ran = dev.cli("submit", "add@1", "--function", "none", "--wait", "--json")
    assert (ran.code, ran.object["code"]) == (5, "function_not_found")
    ran = dev.cli("submit", "never@1", "--function", "f", "--wait")
    assert (ran.code, "module_not_found" in ran.err) == (5, True)


def test_another_client_sends_what_token_issue_signed(dev: Dev) -> None:
    """librdkafka in kcat's place: same library, same header, same partition."""
    body = dev.cli.folder / "body.json"
    body.write_bytes(
        b'{"request_id":"by-hand","module":"add@1","invocation":'
        b'{"kind":"call","function":"add","args":[{"i32":40},{"i32":2}]}}'
    )
    issued = dev.cli("token", "issue", "--body", str(body), "--partition", "1")
    assert issued.code == 0, issued.err
    placed: list[int | None] = []
    producer = Producer({"bootstrap.servers": dev.said["bootstrap_servers"]})
    producer.produce(
        "wasm.requests",
        body.read_bytes(),
        partition=1,
        headers={"authorization": f"Bearer {issued.out.strip()}"},
        on_delivery=lambda _, message: placed.append(message.offset()),
    )
    producer.flush(30)
    story = _until_answered(dev, f"wasm.requests/1/{placed[0]}")
    assert story["request_id"] == "by-hand"
    assert story["result"]["outputs"] == [{"i32": 42}]


def test_results_are_followed_as_json_lines(dev: Dev) -> None:
    following = dev.cli.start("results", "follow", "--json")
    try:
        assert following.stderr is not None
        assert following.stdout is not None
        assert b"following" in following.stderr.readline()
        sent = dev.cli("submit", *CALL, "--request-id", "followed").code
        assert sent == 0
        while True:
            if json.loads(following.stdout.readline())["request_id"] == "followed":
                break
    finally:
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=30)
    assert following.returncode == 130


def test_the_audit_log_verifies_and_replays(dev: Dev) -> None:
    assert dev.cli("submit", *CALL, "--wait").code == 0
    verified = dev.cli("audit", "verify", "--json")
    assert verified.code == 0, verified.err
    assert verified.object["verdict"] == "ok"
    assert all(p["finding_count"] == 0 for p in verified.object["partitions"])
    assert "verify: ok" in dev.cli("audit", "verify", "--quick").out
    rows = dev.cli(
        "audit", "replay", "--module", "add@1", "--since", "1h", "--json"
    ).objects
    assert rows
    assert {row["module"] for row in rows} == {"add@1"}
    table = dev.cli("audit", "replay", "--format", "csv").out.splitlines()
    assert table[0].startswith("time,partition")
    last = dev.cli("audit", "tail", "-n", "1", "--json").objects
    assert {row["kind"] for row in last} == {"seal"}


def test_a_wrong_root_of_trust_is_found_out(dev: Dev) -> None:
    ran = dev.cli("audit", "verify", "--operator-key", "11" * 32)
    assert ran.code == 1, ran


def test_the_instance_tells_of_itself(dev: Dev) -> None:
    status = dev.cli("status", "--json").object
    assert status["health"]["ok"] is True
    assert status["audience"].startswith("wasm-executor/")
    assert "audience" in dev.cli("status").out
    lanes = dev.cli("lane", "list", "--json").objects
    assert [lane["partition"] for lane in lanes] == [0, 1]
    assert {lane["state"] for lane in lanes} == {"running"}


@pytest.mark.needs("chromium")
def test_a_browser_shows_the_overview_and_has_no_complaint(
    dev: Dev, tmp_path: Path
) -> None:
    """A style that its policy blocks, or an address elsewhere, would be one."""
    assert dev.cli("submit", *CALL, "--wait").code == 0

    def succeeded() -> int:
        return int(dev.cli("status", "--json").object["results"]["succeeded"])

    until = time.monotonic() + 30
    while (before := succeeded()) == 0:  # reports are a moment behind
        assert time.monotonic() < until
    ran = subprocess.run(
        [  # noqa: S607
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            "--disable-dev-shm-usage", "--disable-background-networking",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path}", dev.said["http"],
        ],
        capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    assert "CONSOLE" not in ran.stderr
    rows = [
        re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in ran.stdout.split("<tr>")
    ]
    assert [row[:2] for row in rows if "running" in row] == [
        ["0", "running"], ["1", "running"],
    ]  # fmt: skip
    (shown,) = [int(row[1]) for row in rows if row[:1] == ["succeeded"]]
    assert before <= shown <= succeeded()


def test_topics_are_as_they_must_be_and_can_be_printed(dev: Dev) -> None:
    assert dev.cli("topics", "check").code == 0
    assert dev.cli("topics", "plan", "--json").objects == []
    assert dev.cli("topics", "apply").code == 0
    commands = dev.cli("topics", "plan", "--format", "kafka-topics").out
    assert commands.count("--create") == 6
    assert "kind: KafkaTopic" in dev.cli("topics", "plan", "--format", "strimzi").out
    assert "kafka-acls" in dev.cli("topics", "acls").out
    drift = dev.cli("topics", "plan", "--partitions", "3", "--json").objects
    assert {change["what"] for change in drift} == {"partitions"}


def test_the_doctor_is_content(dev: Dev) -> None:
    ran = dev.cli("doctor", "--json")
    states = {check["id"]: check["state"] for check in ran.objects}
    assert ran.code == 0, ran
    for name in ("kafka.reachable", "kafka.topics", "kafka.genesis", "clock"):
        assert states[name] == "ok", ran.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running_however_it_ends(
    tmp_path: Path, number: signal.Signals
) -> None:
    running = start(tmp_path, "--partitions", "1")
    family = _descendants(running.process.pid)
    assert len(family) >= 4, family  # Kafka, its guardian, supervisor, worker, children
    code = running.stop(number)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    until = time.monotonic() + 30
    while alive := [pid for pid in family if _runs(pid)]:
        assert time.monotonic() < until, alive
        time.sleep(0.1)
    assert not Path(running.said["credentials"]).exists()


def test_a_port_or_folder_that_cannot_be_had_is_named_before_anything_starts(
    tmp_path: Path,
) -> None:
    cli = Cli(tmp_path)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "README.md").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for options, code, words in (
            (("--port", port), 4, f"error[CONFIG]: port {port} is in use"),
            (("--port", "99999"), 2, "'--port': Input should be less than"),
            (("--data", str(notes / "README.md")), 4, "is no folder"),
            (("--data", "/proc/nope"), 4, "error[CONFIG]: the folder /proc/nope"),
            (("--data", str(notes)), 4, "is not empty"),
        ):
            ran = cli("dev", *options)
            assert (ran.code, words in ran.err) == (code, True), ran
            assert ran.err.splitlines()[-1].startswith("  try: ")
    assert [one.name for one in notes.iterdir()] == ["README.md"]


def test_what_is_kept_is_there_again_and_the_folder_is_one_users(
    tmp_path: Path,
) -> None:
    data = tmp_path / "kept"
    first = start(tmp_path, "--data", str(data), "--partitions", "1")
    sent = first.cli("submit", *CALL, "--wait", "--request-id", "kept-1")
    assert sent.code == 0, sent.err
    second = Cli(tmp_path)("dev", "--data", str(data))
    assert (second.code, "in use" in second.err) == (4, True)
    following = first.cli.start("results", "follow")
    assert following.stderr is not None
    assert b"following" in following.stderr.readline()
    assert first.stop() == 0
    assert b"brokers do not answer" in following.stderr.readline()
    doctor = first.cli("doctor")
    assert (doctor.code in {3, 4}, doctor.err) == (True, ""), doctor
    assert "kafka.reachable" in doctor.out.splitlines()[0]
    assert "export line" in doctor.out.splitlines()[2]
    sent = first.cli("submit", *CALL)
    assert (sent.code, sent.err.startswith("error[UNAVAILABLE]")) == (3, True), sent
    following.send_signal(signal.SIGINT)
    assert following.communicate(timeout=30) == (b"", b"")  # not a line of a library
    again = start(tmp_path, "--data", str(data))
    try:
        assert again.cli("request", "show", "kept-1").code == 0
        assert again.cli("submit", *CALL, "--wait").code == 0
        verified = again.cli("audit", "verify", "--json").object
        assert verified["verdict"] == "ok"
        assert verified["partitions"][0]["terms"] == 2
        again.assert_sound()
    finally:
        assert again.stop() == 0


def _until_answered(dev: Dev, name: str) -> dict[str, Any]:
    until = time.monotonic() + 30
    while True:
        ran = dev.cli("request", "show", name, "--json")
        if ran.code == 0 and ran.object["event"] is not None:
            story: dict[str, Any] = ran.object
            return story
        assert time.monotonic() < until, ran
        time.sleep(0.2)


def _descendants(pid: int) -> list[int]:
    """Everything below a process, by parent, from /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    if state == "Z":
        return False
    os.kill(pid, 0)
    return True
