"""``token``: sign a record for other clients, or read a token without believing it."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_executor.cli.options import Json
from stream_executor.cli.output import hint, print_json, say
from stream_executor.cli.reach import Reach, read_file, with_reach

if TYPE_CHECKING:
    from stream_executor.auth.inspection import Inspection

token = typer.Typer(help="Sign records, inspect tokens.", no_args_is_help=True)


@token.command()
@with_reach
def issue(
    *,
    reach: Reach,
    body: Annotated[
        Path,
        typer.Option(
            "--body", metavar="FILE", help="The record's exact value; - is stdin."
        ),
    ],
    partition: Annotated[
        int, typer.Option(metavar="N", help="Where you will produce it.")
    ],
    topic: Annotated[
        str | None, typer.Option(metavar="NAME", help="The requests topic.")
    ] = None,
    lifetime: Annotated[
        int, typer.Option(metavar="SECONDS", help="exp - iat.", min=1)
    ] = 120,
    role: Annotated[str, typer.Option(help="Role to claim.")] = "Agent",
    json: Json = False,
) -> None:
    """Print a token that is good for one record: this body, on this partition, now.

    Send it as the header `authorization: Bearer <token>` within two minutes.
    """
    from stream_executor.cli.signing import signer_of

    signer: Any = asyncio.run(signer_of(reach))
    made = signer.sign(
        topic or reach.topics.requests,
        partition,
        read_file(body),
        now_s=int(time.time()),
        lifetime_s=lifetime,
        role=role,
    ).decode()
    if json:
        print_json({"token": made, "header": f"Bearer {made}"}, schema="token")
        return
    say(made)
    if sys.stdout.isatty():
        hint("good for 2 minutes, for this body on this partition only")


@token.command()
def inspect(
    *,
    text: Annotated[
        str, typer.Argument(metavar="TOKEN", help="The token; - reads stdin.")
    ],
    body: Annotated[
        Path | None,
        typer.Option("--body", metavar="FILE", help="The record's exact value."),
    ] = None,
    json: Json = False,
) -> None:
    """Say what a token says, and what a worker would object to; verifies nothing."""
    from stream_executor.auth.inspection import inspect_token

    raw = read_file(Path("-")) if text == "-" else text.encode()
    found = inspect_token(raw)
    if body is not None and not _speaks_for(found, read_file(body)):
        found.findings.append(f"it speaks for another body than {body}")
    if json:
        print_json(
            {
                "header": found.header,
                "claims": found.claims,
                "findings": found.findings,
                "code": found.code,
            },
            schema="token-inspection",
        )
        return
    _print(found)


def _speaks_for(found: Inspection, value: bytes) -> bool:
    """Tell whether the token's binding names these bytes."""
    from hashlib import sha256

    from stream_executor.auth.jose import encode_segment

    binding = (found.claims or {}).get("wx")
    digest = encode_segment(sha256(value).digest()).decode()
    return isinstance(binding, dict) and binding.get("body_s256") == digest


def _print(found: Inspection) -> None:
    for title, members in (("header", found.header), ("claims", found.claims)):
        if members is None:
            say(f"{title}: cannot be read")
            continue
        for name, value in members.items():
            say(f"{title:8}{name:10}{_readable(name, value)}")
    for finding in found.findings:
        say(f"finding {finding}")
    if found.code is not None:
        say(f"code    {found.code.value}")
    hint("nothing here was verified: only a worker with the key can")


def _readable(name: str, value: object) -> str:
    if name in {"iat", "exp", "nbf"} and isinstance(value, int):
        try:
            moment = time.gmtime(value)
        except (OverflowError, OSError, ValueError):
            return str(value)
        return f"{value} ({time.strftime('%Y-%m-%dT%H:%M:%SZ', moment)})"
    return str(value)
