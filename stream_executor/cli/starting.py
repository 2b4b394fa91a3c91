"""``dev`` and ``demo``: everything on this machine, with one command."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

from stream_executor.cli.options import Json  # noqa: TC001 - typer reads it


def dev(
    *,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Keep everything there."),
    ] = None,
    partitions: Annotated[
        int, typer.Option(metavar="N", help="Of requests, results and audit.", min=1)
    ] = 4,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", help="HTTP port; else a free one.", min=1, max=65_535
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Start a Kafka and an executor here, and stay up until Ctrl-C.

    One node, for development. Prints addresses, a credentials file, and lines to copy.
    """
    from stream_executor.services.dev import run_dev

    return run_dev(data, partitions=partitions, port=port, as_json=json)


def demo() -> int:
    """Show everything once: requests, results, refused forgeries, a verified log.

    Exit code 0 only if all of it came out as promised.
    """
    from stream_executor.services.demo import run_demo

    return run_demo()
