"""deploy/ as an operator uses it: installed, run and removed under a real systemd."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stream_executor.kafka.connection import KafkaConnection
from tests.deployment import free_port
from tests.history import assert_sound_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.own_host import OwnHost

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[2]
ADD = ROOT / "examples" / "modules" / "add.wat"
INSTALL = ROOT / "deploy" / "install.sh"
TOPICS = ("requests", "results", "audit", "modules", "control", "checkpoints")
UNIT = "wasm-executor"
CONFIG = "/etc/wasm-executor/config.env"
KEYS = "/etc/wasm-executor/keys"
AS_FIRST = f"--credentials {KEYS}/credentials.json"
LOG = "/var/log/wasm-executor/audit.log"


@pytest.mark.needs("/lib/systemd/systemd", "/usr/lib/python3.11/ensurepip", "logrotate")
def test_a_host_from_its_installation_to_its_end(
    host: OwnHost, wheel: Path, kafka_bootstrap: str, topic_prefix: str
) -> None:
    host.shell("rm -rf /etc/wasm-executor /var/{lib,log}/wasm-executor /backup")
    before = changed(host)
    next_steps = installs_and_upgrades(host, wheel)
    configures(host, kafka_bootstrap, topic_prefix, next_steps)
    starts_and_runs_a_guest(host)
    tells_of_itself(host)
    reloads(host)
    rotates_its_log(host)
    comes_back_when_killed(host)
    stays_down_with_a_wrong_configuration(host)
    starts_with_a_restored_configuration(host)
    stops(host)
    is_backed_up(host)
    is_removed(host, before)
    assert_sound_at(KafkaConnection(bootstrap_servers=kafka_bootstrap), topic_prefix)


def installs_and_upgrades(host: OwnHost, wheel: Path) -> list[str]:
    """The second run changes nothing; what ran before is kept, older ones are not."""
    host.shell(
        "mkdir -p /opt/wasm-executor/older /opt/wasm-executor/before;"
        "ln -s before /opt/wasm-executor/current"
    )
    first = host.run(INSTALL, "--wheel", wheel).stdout
    assert re.match(r"wasm-executor \d", first)
    kept = host.shell("ls /opt/wasm-executor").split()
    assert "before" in kept
    assert "older" not in kept
    assert host.shell("readlink /opt/wasm-executor/current").strip() in kept

    done = changed(host)
    assert host.run(INSTALL, "--wheel", wheel).stdout == first
    assert changed(host) == done

    assert host.shell(f"stat -c '%a %U:%G' {CONFIG}") == "640 root:wasm-executor\n"
    checked = host.run("wasm-executor", "--test-config", user=UNIT)
    assert "needed to run" in checked.stderr
    assert host.run("cat", CONFIG, user="nobody", code=1).stdout == ""
    verified = host.shell(
        "cd /usr/local/lib/systemd/system; systemd-analyze verify * 2>&1"
    )
    assert verified == ""
    return re.findall(r"^  (.+)$", first, re.MULTILINE)


def configures(
    host: OwnHost, bootstrap: str, prefix: str, next_steps: list[str]
) -> None:
    """What install.sh said to do, as it said it."""
    lines = [f"WASM_EXECUTOR_{n.upper()}_TOPIC={prefix}{n}" for n in TOPICS]
    lines += [
        f"WASM_EXECUTOR_GROUP={prefix}group",
        f"METRICS_PORT={free_port()}",
        "WASM_EXECUTOR_CHILDREN=1",
    ]
    host.shell(
        f"sed -i 's/^KAFKA_BOOTSTRAP_SERVERS=.*/KAFKA_BOOTSTRAP_SERVERS={bootstrap}/' "
        f"{CONFIG}; printf '%s\\n' {' '.join(lines)} >> {CONFIG}"
    )
    begin, start = next_steps
    host.shell(begin)
    host.shell(start)


def starts_and_runs_a_guest(host: OwnHost) -> None:
    """Under the unit's sandbox, and with all that a child takes from itself."""
    wait(host, lambda: host.run("wasm-executor", "status", code=None).returncode == 0)
    (worker,) = json.loads(host.shell("wasm-executor status --json"))["service"][
        "workers"
    ]
    assert set(worker["hardening"]) >= {"seccomp", "no-new-privs", "rlimits", "user"}
    host.shell(f"wasm-executor module publish {ADD} {AS_FIRST}")
    submits(host)
    readable = host.shell(f"runuser -u {UNIT} -- find {KEYS} -name '*.pem' -readable")
    assert readable == f"{KEYS}/fleet.pem\n"


def submits(host: OwnHost) -> None:
    call = "add@1 --function add --arg i32:20 --arg i32:22"
    assert host.shell(f"wasm-executor submit {call} --wait {AS_FIRST}") == "i32:42\n"


def tells_of_itself(host: OwnHost) -> None:
    wait(host, lambda: "4 of 4 lanes able, lag 0" in shown(host, "StatusText"))
    status = host.shell(f"systemctl status {UNIT} --no-pager --lines=0")
    assert "active (running)" in status
    assert "supervisor.started" in journal(host)
    assert "error" not in journal(host).lower()
    users = host.shell("ps -eo user:20,args | grep '[w]asm-executor: '").splitlines()
    assert len(users) >= 2
    assert all(line.startswith(UNIT) for line in users)
    assert "wasm-executor-backup.timer" in host.shell(
        "systemctl list-timers --no-pager"
    )


def reloads(host: OwnHost) -> None:
    host.shell(f"sed -i 's/LOG_LEVEL=.*/LOG_LEVEL=debug/' {CONFIG}")
    host.shell(f"systemctl reload {UNIT}")
    wait(host, lambda: journal(host).count("supervisor.reloaded") == 1)
    wait(host, lambda: shown(host, "SubState") == "running")


def rotates_its_log(host: OwnHost) -> None:
    """Renamed, not copied; compressed a rotation later; no line lost or doubled."""
    config = "/etc/logrotate.d/wasm-executor"
    assert "error" not in host.shell(f"logrotate -d {config} 2>&1")
    day = time.strftime("%Y%m%d", time.gmtime())
    for number, name in enumerate((f"{LOG}-20260101", f"{LOG}-{day}"), start=1):
        wait(host, lambda: host.shell(f"grep -c SUCCEEDED {LOG}", code=None) == "1\n")
        inode = host.shell(f"stat -c %i {LOG}")
        host.shell(f"logrotate -f {config}")
        assert host.shell(f"stat -c %i {LOG}-{day}") == inode
        assert host.shell(f"stat -c '%a %U:%G' {LOG}") == f"640 {UNIT}:{UNIT}\n"
        # What is on its way into the renamed file is written there, before.
        wait(host, lambda: journal(host).count("audit_log.reopened") == number)  # noqa: B023 - called at once
        host.shell(f"test {LOG}-{day} = {name} || mv {LOG}-{day} {name}")
        submits(host)
    wait(host, lambda: host.shell(f"grep -c SUCCEEDED {LOG}", code=None) == "1\n")
    lines = host.shell(f"zcat {LOG}-20260101.gz; cat {LOG}-{day} {LOG}").splitlines()
    rows = [json.loads(line) for line in lines]
    for partition in range(4):
        numbers = [row["seq"] for row in rows if row["partition"] == partition]
        assert numbers == list(range(len(numbers)))


def comes_back_when_killed(host: OwnHost) -> None:
    host.shell(f"systemctl kill --signal=KILL --kill-whom=main {UNIT}")
    wait(host, lambda: shown(host, "NRestarts", "SubState") == "1 running")
    wait(host, lambda: host.run("wasm-executor", "status", code=None).returncode == 0)


def stays_down_with_a_wrong_configuration(host: OwnHost) -> None:
    host.shell(f"echo MAX_FUEL=much >> {CONFIG}")
    host.shell(f"systemctl restart {UNIT}", code=1)
    assert shown(host, "Result", "ExecMainStatus", "NRestarts") == "exit-code 4 0"
    assert "MAX_FUEL=much" in journal(host)
    host.shell(f"sed -i '/MAX_FUEL=much/d' {CONFIG}")


def starts_with_a_restored_configuration(host: OwnHost) -> None:
    """As the manual's `cp -r` leaves it, root's alone; and somebody's log."""
    host.shell("chown -R root:root /etc/wasm-executor; chmod -R go= /etc/wasm-executor")
    host.shell(f"chown root:root {LOG}")
    host.shell(f"systemctl start {UNIT}")
    assert shown(host, "SubState") == "running"


def stops(host: OwnHost) -> None:
    since_start = shown(
        host, "WatchdogTimestampMonotonic", "ActiveEnterTimestampMonotonic"
    )
    watchdog, active = map(int, since_start.split())
    assert watchdog >= active > 0
    host.shell(f"systemctl stop {UNIT}")
    assert shown(host, "Result", "ExecMainStatus", "SubState") == "success 0 dead"
    assert "supervisor.stopped" in "".join(journal(host).splitlines()[-4:])


def is_backed_up(host: OwnHost) -> None:
    """By the timer's unit, out of the service's reach; its age is all it can see."""
    host.shell(f"systemctl start {UNIT}-backup")
    day = time.strftime("%Y%m%d", time.gmtime())
    members = host.shell(f"tar -tzf /backup/wasm-audit-{day}.tar.gz").splitlines()
    assert LOG.removeprefix("/") in members
    assert f"{LOG.removeprefix('/')}-20260101.gz" in members
    kept = host.shell("stat -c '%a %U:%G' /backup /backup/wasm-executor-config-*")
    assert kept.splitlines()[0] == f"750 root:{UNIT}"
    assert "wasm-audit" in host.shell(f"runuser -u {UNIT} -- ls /backup")
    host.shell(f"runuser -u {UNIT} -- touch /backup/wasm-audit-{day}.tar.gz", code=1)
    host.shell("wasm-executor backup verify")


def is_removed(host: OwnHost, before: set[str]) -> None:
    """All but data and the user who owns it."""
    host.run(INSTALL, "uninstall")
    data = re.compile(
        r"\./(etc/wasm-executor|var/(lib|log)/wasm-executor|backup)/"
        r"|\./etc/(passwd|group|g?shadow)-?$|\./etc/\.pwd\.lock$"
        r"|\./(root|var/lib/logrotate)/"
    )
    left = {line.split()[0] for line in changed(host) - before}
    assert [name for name in sorted(left) if not data.match(name)] == []


def changed(host: OwnHost) -> set[str]:
    """Every file that differs from the machine below, with owner, mode and time."""
    listed = host.shell(
        "cd /run/changed; find . -not -type d -printf '%p %m %u:%g %l %s %T@\\n'"
    )
    return set(listed.splitlines())


def journal(host: OwnHost) -> str:
    return host.shell(f"journalctl -u {UNIT} --no-pager --output=cat")


def shown(host: OwnHost, *properties: str) -> str:
    names = ",".join(properties)
    lines = host.shell(f"systemctl show {UNIT} --property={names}").splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return " ".join(values[name] for name in properties)


def wait(host: OwnHost, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, journal(host)[-4000:]
        time.sleep(0.2)
