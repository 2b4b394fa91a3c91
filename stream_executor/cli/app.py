"""The command tree.

Each group is a file; nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from stream_executor import __version__
from stream_executor.cli import (
    audit,
    backup,
    bench,
    cache,
    deny,
    doctor,
    explain,
    key_history,
    keys,
    modules,
    recovery,
    request,
    running,
    service,
    session,
    starting,
    status,
    tokens,
    topics,
)
from stream_executor.cli.reach import EnvFile  # noqa: TC001 - typer reads it

app = typer.Typer(
    name="wasm-executor",
    help="Run signed WebAssembly requests from Kafka, each answered exactly once. "
    "Without a command: run the service.",
    no_args_is_help=False,
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_SERVICE, _START = "The service", "Starting"
_USE, _PROOF = "Using it", "Looking closer"
app.command(rich_help_panel=_START)(starting.dev)
app.command(rich_help_panel=_START)(starting.demo)
app.command(rich_help_panel=_START)(service.init)
app.command(rich_help_panel=_SERVICE)(service.run)
app.command(rich_help_panel=_SERVICE)(doctor.doctor)
app.command(rich_help_panel=_SERVICE)(status.status)
status.lane.command()(recovery.resume)
app.add_typer(status.lane, name="lane", rich_help_panel=_SERVICE)
app.add_typer(topics.topics, name="topics", rich_help_panel=_SERVICE)
app.add_typer(cache.cache, name="cache", rich_help_panel=_SERVICE)
app.add_typer(backup.backup, name="backup", rich_help_panel=_SERVICE)
app.add_typer(deny.deny, name="deny", rich_help_panel=_SERVICE)
keys.keys.add_typer(key_history.key_history)  # without a name: into the same group
app.add_typer(keys.keys, name="keys", rich_help_panel=_SERVICE)
app.add_typer(modules.module, name="module", rich_help_panel=_USE)
app.command(rich_help_panel=_USE)(running.submit)
app.command(rich_help_panel=_USE)(running.invoke)
app.add_typer(request.results, name="results", rich_help_panel=_USE)
app.add_typer(tokens.token, name="token", rich_help_panel=_USE)
app.add_typer(request.request, name="request", rich_help_panel=_PROOF)
audit.audit.command()(recovery.doctor)
app.add_typer(audit.audit, name="audit", rich_help_panel=_PROOF)
app.command(rich_help_panel=_PROOF)(bench.bench)
app.command(rich_help_panel=_PROOF)(explain.explain)


@app.callback()
def root(
    *,
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print it.")] = False,
    test_config: Annotated[
        bool,
        typer.Option(
            "--test-config", help="Check the configuration, show it, and stop."
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For --test-config.")] = False,
    env_file: EnvFile = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> int:
    """Run the service, or look at its configuration."""
    session.debug = debug
    if not debug:
        session.silence_libraries()
    if context.invoked_subcommand is not None:
        return 0
    if version:
        typer.echo(f"wasm-executor {__version__}")
        return 0
    if test_config:
        return service.test_config(env_file, as_json=json)
    return service.run(env_file=env_file)
