"""Running the service, checking its configuration, and beginning a deployment."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream_executor.cli.failures import CommandError, Exit
from stream_executor.cli.options import Json  # noqa: TC001 - typer reads it
from stream_executor.cli.output import hint, print_json, progress, say, table
from stream_executor.cli.reach import EnvFile, Reach, with_reach

if TYPE_CHECKING:
    from stream_executor.services.ceremony import CeremonyReport
    from stream_executor.settings import Settings


def run(*, env_file: EnvFile = None) -> int:
    """Run the service: workers and the HTTP port, until SIGTERM."""
    from stream_executor.services.supervisor import run_service
    from stream_executor.settings import load

    return run_service(lambda: load(env_file))


def test_config(env_file: Path | None, *, as_json: bool) -> int:
    """Print every setting, its value and where it came from; needs no broker.

    Raises:
        SettingsError: with everything that is wrong.
    """
    from stream_executor.settings import NO_KEY_FOR_TOKENS, load

    settings = load(env_file)
    rows = settings.describe()
    missing = settings.missing_to_run()
    grave = [one for one in missing if one == NO_KEY_FOR_TOKENS]
    if as_json:
        print_json(
            {
                "ok": not grave,
                "digest": settings.digest(),
                "settings": [
                    {"name": r.name, "value": r.value, "origin": r.origin} for r in rows
                ],
                "missing_to_run": missing,
                "notes": settings.notes,
            },
            schema="configuration",
        )
    else:
        table(("SETTING", "VALUE", "FROM"), [(r.name, r.value, r.origin) for r in rows])
    for note in settings.notes:
        hint(f"note: {note}")
    if grave:
        raise CommandError("CONFIG", grave[0], remedy="openssl rand -base64 48")
    for one in missing:
        hint(f"needed to run: {one}")
    if not missing:
        hint("the configuration is complete")
    return Exit.OK


@with_reach
def init(
    *,
    reach: Reach,
    keys: Annotated[
        Path, typer.Option("--keys", metavar="DIR", help="Where key files are made.")
    ] = Path("wasm-executor-keys"),
    partitions: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of new topics; 4 if there are none yet."),
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="The deployment's name (APP_ID).")
    ] = "wasm-executor",
    previous_log: Annotated[
        list[str] | None,
        typer.Option(
            "--previous-log",
            metavar="PARTITION=LOG_ID",
            help="Begin anew where a log was lost.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Begin a deployment, once: keys, topics, the control chain, every audit log.

    Prints the lines that belong into config.env. Run again it changes nothing, or
    begins what is missing, such as the logs of partitions that were added.
    """
    previous = dict(map(_previous, previous_log or ()))
    with progress("beginning the deployment"):
        report = asyncio.run(_init(reach, keys, partitions, name, previous))
    from stream_executor.services.first_credentials import write_first
    from stream_executor.settings import reveal

    configured = _configured(reach)
    servers = reach.connection.bootstrap_servers
    lines = [
        *report.settings_lines,
        *write_first(
            keys,
            servers,
            report.audience,
            reach.topics,
            configured="" if configured is None else reveal(configured.jwt_secret),
        ),
        f"KAFKA_BOOTSTRAP_SERVERS={servers}",
    ]
    if name != "wasm-executor":
        lines.append(f"WASM_EXECUTOR_APP_ID={name}")
    if json:
        print_json(
            {
                "settings": dict(line.split("=", 1) for line in lines),
                "done": report.done,
                "log_ids": [log_id.hex() for log_id in report.log_ids],
                "credentials": str(keys / "credentials.json"),
            },
            schema="init",
        )
        return
    for line in lines:
        say(line)
    for one in report.done:
        hint(one)
    hint(
        f"The operator's key, {keys / 'operator.pem'}, is the root of trust: keep it "
        "offline.\n  try: put the lines above into /etc/wasm-executor/config.env, then "
        "wasm-executor --test-config"
    )


def _configured(reach: Reach) -> Settings | None:
    """Give the configuration, if it is this service's at all."""
    elsewhere = reach.credentials is not None or reach.bootstrap_server is not None
    return None if elsewhere and reach.env_file is None else reach.settings


async def _init(
    reach: Reach,
    keys: Path,
    partitions: int | None,
    name: str,
    previous: dict[int, bytes],
) -> CeremonyReport:
    from stream_executor.cli.topics import specs_of
    from stream_executor.kafka.admin import KafkaAdmin
    from stream_executor.kafka.appender import Appender
    from stream_executor.kafka.reader import PartitionReader
    from stream_executor.services.ceremony import Deployment, perform, prepare_keys

    connection, topics = reach.connection, reach.topics
    async with KafkaAdmin(connection) as admin:
        left = await admin.apply(await specs_of(reach, partitions, admin))
        if grave := [change for change in left if change.matters]:
            raise CommandError("TOPICS", "topics need a person", cause=str(grave[0]))
        cluster = await admin.cluster()
    configured = _configured(reach)
    deployment = Deployment(
        name, cluster.cluster_id, topics,
        None if configured is None else configured.audience, previous,
    )  # fmt: skip
    async with PartitionReader(connection) as reader, Appender(connection) as appender:
        return await perform(
            deployment, prepare_keys(keys), reader, appender,
            lambda: time.time_ns() // 1_000_000,
        )  # fmt: skip


def _previous(text: str) -> tuple[int, bytes]:
    found = re.fullmatch(r"(\d{1,9})=([0-9a-fA-F]{32})", text)
    if found is None:
        raise CommandError(
            "USAGE", f"--previous-log: expected PARTITION=32 hex digits, got {text!r}"
        )
    return int(found[1]), bytes.fromhex(found[2])
