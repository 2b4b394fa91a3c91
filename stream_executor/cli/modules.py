"""``module``: begin, publish, list, show and revoke modules."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_executor.cli import session
from stream_executor.cli.bundling import bundle
from stream_executor.cli.failures import CommandError
from stream_executor.cli.invocation import read_module
from stream_executor.cli.options import Json
from stream_executor.cli.orders import (
    AdministratorKey,
    OperatorKey,
    administrator,
    everything_said,
)
from stream_executor.cli.output import hint, print_json, progress, say, table
from stream_executor.cli.reach import Reach, with_reach
from stream_executor.cli.templates import TEMPLATES

if TYPE_CHECKING:
    from stream_executor.model.job import Limits
    from stream_executor.modules.view import PublishedModule

module = typer.Typer(help="Publish, look at and revoke modules.", no_args_is_help=True)


@module.command()
def new(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The module's name.")],
    lang: Annotated[str, typer.Option(help=f"One of {', '.join(TEMPLATES)}.")] = "wat",
) -> None:
    """Begin a module: write a source file that says how to build and run it."""
    if not re.fullmatch(r"[a-z0-9._-]{1,64}", name):
        raise CommandError("USAGE", f"a module's name is [a-z0-9._-]{{1,64}}: {name!r}")
    template = TEMPLATES.get(lang)
    if template is None:
        raise CommandError(
            "USAGE",
            f"no template for {lang!r}",
            cause=f"there are {', '.join(TEMPLATES)}",
            remedy=f"wasm-executor module new {name} --lang wat",
        )
    path = Path(template.file(name))
    try:
        with path.open("x") as file:
            file.write(template.text(name))
    except FileExistsError:
        raise CommandError("USAGE", f"{path} exists already") from None
    say(str(path))
    first, *rest = template.commands(name)
    hint("\n".join([f"  try: {first}", *(f"  then: {line}" for line in rest)]))


module.command()(bundle)


@module.command()
@with_reach
def publish(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".wasm or .wat")],
    reach: Reach,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME@VERSION", help="Default FILE's name @1."),
    ] = None,
    key: AdministratorKey = None,
    operator_key: OperatorKey = None,
    grant_fuel: Annotated[
        int | None, typer.Option(metavar="UNITS", help="More fuel for this module.")
    ] = None,
    grant_memory: Annotated[
        int | None, typer.Option(metavar="BYTES", help="More memory for it.")
    ] = None,
    grant_deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="More time for it.")
    ] = None,
    grant_size: Annotated[
        bool, typer.Option(help="It may be larger than MAX_MODULE_BYTES.")
    ] = False,
    json: Json = False,
) -> None:
    """Publish a module under NAME@VERSION, for good: a version never changes."""
    from stream_executor.model.request import ModuleName
    from stream_executor.services import publishing
    from stream_executor.wire.requests import parse_module_name

    session.silence_sandbox()
    ref = parse_module_name(name or f"{file.stem}@1")
    if not isinstance(ref, ModuleName):
        raise CommandError("USAGE", "modules are published by name@version")
    binary = read_module(file)
    hard_max = _hard_max(reach, len(binary))
    with progress(f"publishing {ref} ({len(binary)} bytes)"):
        published = asyncio.run(
            publishing.publish(
                reach.connection,
                reach.topics,
                reach.operator_public_key(operator_key),
                administrator(reach, key),
                ref,
                binary,
                _grant(grant_fuel, grant_memory, grant_deadline, size=grant_size),
                hard_max,
            )
        )
    if json:
        print_json(
            {
                "module": str(ref),
                "sha256": published.s256.hex(),
                "size_bytes": published.size_bytes,
                "modules_offset": published.modules_offset,
                "new": published.new,
            },
            schema="module",
        )
        return
    say(f"{ref} sha256:{published.s256.hex()}")
    hint("published" if published.new else "it was published before, just so")


@module.command()
@with_reach
def revoke(
    *,
    name: Annotated[
        str, typer.Argument(metavar="MODULE", help="name@version or sha256:…")
    ],
    reach: Reach,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; for people.")],
    key: AdministratorKey = None,
    operator_key: OperatorKey = None,
    json: Json = False,
) -> None:
    """Forbid a module's bytes, by whatever name and for good, on the whole fleet."""
    from stream_executor.model.request import InlineModule
    from stream_executor.services import publishing
    from stream_executor.wire.requests import parse_module_name

    ref = parse_module_name(name)
    if isinstance(ref, InlineModule):
        raise CommandError("USAGE", "modules are revoked by name@version or sha256:…")
    try:
        s256, new = asyncio.run(
            publishing.revoke(
                reach.connection,
                reach.topics,
                reach.operator_public_key(operator_key),
                administrator(reach, key),
                ref,
                reason,
            )
        )
    except LookupError as error:
        raise _never_published(name) from error
    if json:
        facts = {"sha256": s256.hex(), "revoked": True, "new": new}
        print_json(facts, schema="module")
        return
    say(f"sha256:{s256.hex()}")
    hint("revoked" if new else "it was revoked before")


@module.command(name="list")
@with_reach
def list_modules(
    *,
    reach: Reach,
    operator_key: OperatorKey = None,
    json: Json = False,
) -> None:
    """List published modules, oldest first."""
    view = everything_said(reach, operator_key)
    if json:
        for one in view.modules():
            print_json(_facts(one), schema="module")
        return
    table(
        ("MODULE", "SHA256", "BYTES", "STATE"),
        [
            (
                str(one.name),
                one.s256.hex()[:16],
                str(one.size_bytes),
                "revoked" if one.revoked else "granted more" if one.grant else "",
            )
            for one in view.modules()
        ],
    )


@module.command()
@with_reach
def show(
    *,
    name: Annotated[
        str, typer.Argument(metavar="MODULE", help="name@version, sha256:… or a FILE.")
    ],
    reach: Reach,
    operator_key: OperatorKey = None,
    json: Json = False,
) -> None:
    """Show a module: what was published, what it imports and exports."""
    if Path(name).is_file():
        facts: dict[str, Any] = {"file": name}
        binary = read_module(Path(name))
    else:
        facts, binary = asyncio.run(_fetch(reach, name, operator_key))
    facts |= _interface(binary)
    if json:
        print_json(facts, schema="module")
        return
    for label, value in facts.items():
        if isinstance(value, list):
            for line in value or ["-"]:
                say(f"{label:16}{line}")
        elif value is not None:
            say(f"{label:16}{value}")


async def _fetch(
    reach: Reach, name: str, operator_key: str | None
) -> tuple[dict[str, Any], bytes]:
    from stream_executor.model.request import InlineModule
    from stream_executor.services import publishing
    from stream_executor.services.speaking import read_view
    from stream_executor.wire.requests import parse_module_name

    ref = parse_module_name(name)
    root = reach.operator_public_key(operator_key)
    view = await read_view(reach.connection, reach.topics.control, root)
    found = None if isinstance(ref, InlineModule) else view.resolve(ref)
    if found is None:
        raise _never_published(name)
    binary = await publishing.read_module(reach.connection, reach.topics, view, found)
    return _facts(found), binary


def _never_published(name: str) -> CommandError:
    return CommandError(
        "NOT_FOUND", f"{name} was never published", remedy="wasm-executor module list"
    )


def _facts(one: PublishedModule) -> dict[str, Any]:
    return {
        "module": None if one.name is None else str(one.name),
        "sha256": one.s256.hex(),
        "size_bytes": one.size_bytes,
        "modules_offset": one.modules_offset,
        "published_ms": one.published_ms,
        "revoked": one.revoked,
        "grant": None if one.grant is None else _raised(one.grant),
    }


def _raised(grant: Limits) -> dict[str, int]:
    """Give the limits that a grant raises."""
    from stream_executor.modules.orders import UNRAISED

    amounts = {name: getattr(grant, name) for name in grant.__struct_fields__}
    return {name: amount for name, amount in amounts.items() if amount > UNRAISED}


def _interface(binary: bytes) -> dict[str, Any]:
    """Give what a module imports and exports, as text, by our own parser."""
    from stream_executor.model.scalars import NAMES, ValueType
    from stream_executor.sandbox.inspect import inspect_module

    def types(codes: bytes) -> str:
        known = {int(t) for t in ValueType}
        return ", ".join(NAMES[ValueType(c)] if c in known else "other" for c in codes)

    shape = inspect_module(binary)
    return {
        "exports": [
            f"{name}({types(signature.params)}) -> ({types(signature.results)})"
            for name, signature in sorted(shape.functions.items())
        ],
        "imports": [f"{one.module}.{one.name}" for one in shape.imports],
    }


def _grant(
    fuel: int | None, memory: int | None, deadline_s: float | None, *, size: bool
) -> Limits | None:
    """Give the grant; any lets the module be larger than MAX_MODULE_BYTES."""
    from stream_executor.model.job import Limits
    from stream_executor.modules.orders import UNRAISED

    if (fuel, memory, deadline_s) == (None, None, None) and not size:
        return None
    return Limits(
        UNRAISED if fuel is None else fuel,
        UNRAISED if memory is None else memory,
        UNRAISED if deadline_s is None else round(deadline_s * 1000),
    )


def _hard_max(reach: Reach, module_bytes: int) -> Limits | None:
    """Give what a grant may say; None where credentials hide the settings.

    Raises:
        CommandError: the module is longer than any worker would run.
    """
    from stream_executor.model.job import Limits

    if reach.credentials is not None:
        return None  # workers judge by their own settings
    settings = reach.settings
    if module_bytes > settings.hard_max_module_bytes:
        raise CommandError(
            "REFUSED",
            f"the module has {module_bytes} bytes",
            cause=f"HARD_MAX_MODULE_BYTES is {settings.hard_max_module_bytes}",
            remedy="raise it on every instance, or strip the module's debug sections",
        )
    return Limits(
        settings.hard_max_fuel,
        settings.hard_max_memory_bytes,
        round(settings.hard_max_timeout_seconds * 1000),
    )
