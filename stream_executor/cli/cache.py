"""``cache``: look at this host's compiled modules, and have some forgotten."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream_executor.cli.failures import CommandError
from stream_executor.cli.options import Json
from stream_executor.cli.output import hint, print_json, say, table
from stream_executor.cli.reach import EnvFile
from stream_executor.model.request import DIGEST_PREFIX

if TYPE_CHECKING:
    from stream_executor.sandbox.artefact_folder import Entry

cache = typer.Typer(
    help="Compiled modules, and modules that cannot be compiled, on this host.",
    no_args_is_help=True,
)

StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir", metavar="DIR", help="Instead of WASM_EXECUTOR_STATE_DIR."
    ),
]
_LEAST_DIGITS = 8


@cache.command(name="list")
def list_entries(
    *, state_dir: StateDir = None, env_file: EnvFile = None, json: Json = False
) -> None:
    """List what is kept, most recently used first."""
    found = _entries(_folder(state_dir, env_file))
    if json:
        for one in found:
            facts = {
                "sha256": one.module,
                "refused": one.refused,
                "size_bytes": one.size,
                "used_s": round(one.used_s, 3),
            }
            print_json(facts, schema="cached-module")
        return
    now = time.time()
    table(
        ("SHA256", "STATE", "BYTES", "USED"),
        [
            (
                one.module[:16],
                "refused" if one.refused else "compiled",
                str(one.size),
                f"{(now - one.used_s) / 3600:.1f} h ago",
            )
            for one in found
        ],
    )


@cache.command()
def forget(
    *,
    module: Annotated[
        str | None,
        typer.Argument(
            metavar="[SHA256]", help="sha256:… or the first 8 digits or more."
        ),
    ] = None,
    refused: Annotated[
        bool, typer.Option(help="Every module that could not be compiled.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    state_dir: StateDir = None,
    env_file: EnvFile = None,
    json: Json = False,
) -> None:
    """Forget modules: they are compiled anew; running workers notice within seconds.

    For a module that was refused because its host was overloaded. What a worker has
    compiled in memory stays there.
    """
    digits = (module or "").removeprefix(DIGEST_PREFIX).lower()
    if (bool(digits), refused, everything).count(True) != 1:
        raise CommandError("USAGE", "say one of SHA256, --refused and --all")
    if digits and len(digits) < _LEAST_DIGITS:
        raise CommandError("USAGE", f"at least {_LEAST_DIGITS} digits of the digest")
    wanted = [
        one
        for one in _entries(_folder(state_dir, env_file))
        if everything
        or (refused and one.refused)
        or (digits and one.module.startswith(digits))
    ]
    if digits and not wanted:
        raise CommandError(
            "NOT_FOUND",
            f"nothing is kept of {digits}",
            remedy="wasm-executor cache list",
        )
    for one in wanted:
        one.path.unlink(missing_ok=True)
    if json:
        print_json({"forgotten": len(wanted)}, schema="cache-forgotten")
        return
    for one in wanted:
        say(one.module)
    hint(f"{len(wanted)} forgotten")


def _folder(state_dir: Path | None, env_file: Path | None) -> Path:
    from stream_executor.sandbox.artefact_cache import FOLDER
    from stream_executor.settings import load

    return (state_dir or load(env_file).state_dir) / FOLDER


def _entries(folder: Path) -> list[Entry]:
    from stream_executor.sandbox.artefact_folder import entries

    try:
        return entries(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CommandError(
            "CONFIG",
            f"{folder}: {(error.strerror or 'cannot be read').lower()}",
            cause="only the service's own user may look into it",
            remedy="sudo -u wasm-executor wasm-executor cache list",
        ) from error
