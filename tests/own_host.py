"""A host of its own for tests of the packaging: systemd as process 1 over this root.

Files are this machine's, seen through an overlay: what is installed, started or broken
there is gone with it. Processes, mounts, cgroups and the host's name are its own; the
network is shared, so that an embedded Kafka can be reached. systemd reads its units
from nowhere but /usr/local, /etc and a few empty targets: nothing else is started.

/run/changed there holds the files that differ from this machine's, and no others.

Needs root with CAP_SYS_ADMIN, overlayfs and cgroup v2 (mounted or not).
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

_BOOT = r"""
set -euo pipefail
folder=$1 shared=$2
mount --make-rprivate /
# A cgroup of its own, and then a namespace in which it is the root.
mkdir "$folder/cgroup"
mount -t cgroup2 cgroup2 "$folder/cgroup"
mkdir -p "$folder/cgroup/$3"
echo $$ > "$folder/cgroup/$3/cgroup.procs"
exec unshare --cgroup bash -c "$4" bash "$folder" "$shared"
"""
_ROOT = r"""
set -euo pipefail
folder=$1 shared=$2
umount "$folder/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$folder"
mkdir "$folder"/{upper,scratch,root}
chmod 755 "$folder"/{upper,scratch,root}
mount -t overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/scratch" \
  overlay "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for part in dev run etc/systemd/system; do mount -t tmpfs -o mode=755 tmpfs $part; done
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p ".$shared" run/units run/lock run/changed dev/shm dev/pts
mount --bind "$shared" ".$shared"
mount --bind "$folder/upper" run/changed
for device in null zero full random urandom tty; do
  touch dev/$device
  mount --bind /dev/$device dev/$device
done
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
for target in basic exit local-fs multi-user network network-online paths shutdown \
  slices sockets sysinit timers umount; do
  printf '[Unit]\nDefaultDependencies=no\n' > run/units/$target.target
done
cp /lib/systemd/system/systemd-journald.{service,socket} run/units/
mkdir -p run/units/multi-user.target.wants
ln -s ../systemd-journald.service run/units/multi-user.target.wants/
pivot_root . mnt
umount -l /mnt
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin \
  SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units:/usr/local/lib/systemd/system \
  /lib/systemd/systemd --system --unit=multi-user.target
"""
# The last process may take a moment to be gone.
_SWEEP = r"""
mount -t cgroup2 cgroup2 /mnt && cd /mnt
until find "$1" -depth -type d -exec rmdir {} +; do sleep 0.1; done
"""
# What sudo gives: not the path of whoever runs the tests.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STARTED_S = 30.0


class OwnHost:
    """A booted host, from construction to ``close``.

    Args:
        folder: empty; seen at the same path there.

    Raises:
        OSError: this machine does not let us; the message says why.
    """

    def __init__(self, folder: Path) -> None:
        inside, self._log = folder.parent / "host", folder.parent / "host.log"
        inside.mkdir()
        self._cgroup = f"wasm-executor-test-{os.getpid()}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [  # noqa: S607
                    "setpriv", "--pdeathsig=KILL",  # with the tests themselves
                    "unshare", "--mount", "--pid", "--ipc", "--uts", "--fork",
                    "--kill-child", "bash", "-c", _BOOT, "bash",
                    inside, folder, self._cgroup, _ROOT,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def run(
        self, *arguments: str | Path, user: str = "root", code: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there; ``code`` is the exit code that it must have."""
        ran = subprocess.run(
            [*self._enter(), "runuser", "-u", user, "--", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            cwd="/", timeout=120,
            env={"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        if code is not None and ran.returncode != code:
            raise AssertionError(
                f"{ran.args}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
            )
        return ran

    def shell(self, line: str, code: int | None = 0) -> str:
        """Run a line as root's shell would; give its standard output."""
        return self.run("bash", "-c", line, code=code).stdout

    def close(self) -> None:
        """End everything that runs there."""
        self._process.kill()  # and with it process 1, and with that all others
        self._process.wait()
        subprocess.run(
            ["unshare", "--mount", "bash", "-c", _SWEEP, "bash", self._cgroup],  # noqa: S607
            check=False, capture_output=True, timeout=30,
        )  # fmt: skip

    def _enter(self) -> list[str]:
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            raise OSError(f"no host of its own: {self._log.read_text()[-2000:]}")
        return [
            "nsenter", f"--target={children[0]}", "--mount", "--pid", "--ipc", "--uts",
            "--cgroup", "--root", "--wd",
        ]  # fmt: skip

    def _wait(self) -> None:
        until = time.monotonic() + _STARTED_S
        command = ["systemctl", "is-system-running"]
        state = ""
        while state != "running":
            if self._process.poll() is not None or time.monotonic() > until:
                text = self._log.read_text()[-2000:]
                raise OSError(f"no host of its own ({state}): {text}")
            time.sleep(0.1)
            state = subprocess.run(
                [*self._enter(), *command], capture_output=True, text=True, check=False
            ).stdout.strip()
