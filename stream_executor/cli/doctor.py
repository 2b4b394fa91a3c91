"""``doctor``: look at everything the service needs, and say what to do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from stream_executor.cli.failures import Exit
from stream_executor.cli.options import Json  # noqa: TC001 - typer reads it
from stream_executor.cli.output import print_json, progress, say
from stream_executor.cli.reach import Reach, with_reach
from stream_executor.cli.status import ask

if TYPE_CHECKING:
    from stream_executor.services.diagnosis import Check

_MARKS = {"ok": "ok", "warning": "note", "failed": "FAIL", "unknown": "?"}
_TROUBLES = {"failed", "unknown"}


@with_reach
def doctor(*, reach: Reach, json: Json = False) -> int:
    """Check this machine, the configuration, Kafka and the topics; change nothing.

    Exit code 4: something must be mended. 3: something could not be told.
    """
    from stream_executor.services import diagnosis, diagnosis_host

    checks: list[Check] = []
    with progress("examining") as show:
        for local in (
            diagnosis.python,
            diagnosis.engine,
            diagnosis.hardening,
            diagnosis.java,
        ):
            show(f"examining: {local.__name__}")
            checks.append(local())
        checks.append(diagnosis.configuration(lambda: reach.settings))
        checks.append(diagnosis.compile_cache(lambda: reach.settings))
        checks.append(diagnosis_host.clock_sync())
        show("examining: this host")
        checks += _service(reach)
        show("examining: Kafka")
        checks += asyncio.run(_kafka(reach))
    checks.sort(key=lambda check: check.state not in _TROUBLES)  # those come first
    if json:
        for check in checks:
            print_json(
                {
                    "id": check.id,
                    "state": check.state,
                    "found": check.found,
                    "wanted": check.wanted,
                    "remedy": check.remedy,
                },
                schema="check",
            )
    else:
        width = max(len(check.id) for check in checks)
        for check in checks:
            say(f"{_MARKS[check.state]:4}  {check.id:{width}}  {check.found}")
            if check.state != "ok":
                say(f"{'':6}{'':{width}}  wanted: {check.wanted}")
                say(f"{'':6}{'':{width}}  try: {check.remedy}")
    states = {check.state for check in checks}
    if "failed" in states:
        return Exit.CONFIGURATION
    return Exit.UNKNOWN if "unknown" in states else Exit.OK


def _service(reach: Reach) -> list[Check]:
    """Look at the folders and the instance of the configuration, if there is one."""
    from stream_executor.model.errors import ConfigError
    from stream_executor.services import diagnosis_host
    from stream_executor.settings import reveal

    try:
        settings = reach.settings
    except ConfigError:
        return []  # which is a finding already
    running = diagnosis_host.service(
        settings.instance_id,
        lambda: ask(reach, None, reveal(settings.http_token) or None),
    )
    return [*diagnosis_host.disks(settings), running]


async def _kafka(reach: Reach) -> list[Check]:
    import msgspec

    from stream_executor.model.errors import ConfigError
    from stream_executor.services import diagnosis

    try:
        connection, topics = reach.connection, reach.topics
    except ConfigError as error:
        return [
            diagnosis.Check(
                "kafka.reachable",
                "unknown",
                "the configuration names no usable brokers: "
                + str(error).split("\n")[0],
                "bootstrap.servers",
                "wasm-executor --test-config",
            )
        ]
    checks = await diagnosis.kafka(connection, topics)
    if reach.credentials is not None and checks[0].state != "ok":
        remedy = (
            "start the brokers; `wasm-executor dev` has another address at each start: "
            "run the export line that it prints"
        )
        checks[0] = msgspec.structs.replace(checks[0], remedy=remedy)
    return checks
