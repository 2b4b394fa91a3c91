"""Who says something on the control topic: the options that name keys, and the keys."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream_executor.cli.failures import CommandError
from stream_executor.cli.reach import read_text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from stream_executor.cli.reach import Reach
    from stream_executor.modules.view import ControlView
    from stream_executor.services.speaking import Speaker

AdministratorKey = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="An Administrator's private key."),
]
OperatorPrivateKey = Annotated[
    Path, typer.Option("--key", metavar="FILE", help="The operator's private key.")
]
OperatorKey = Annotated[
    str | None,
    typer.Option(
        "--operator-key",
        metavar="KEY",
        help="The operator's public key (hex, base64, PEM or a file): trust root.",
    ),
]


def administrator(reach: Reach, key: Path | None) -> Ed25519PrivateKey:
    """Give the Administrator's key: as given, else the one that credentials name.

    Raises:
        CommandError: there is none, or the file holds none.
    """
    credentials = reach.credentials
    if key is None and credentials and credentials.administrator_key_file:
        key = Path(credentials.administrator_key_file)
    if key is None:
        raise CommandError(
            "CONFIG",
            "this needs an Administrator's key",
            cause="neither --key nor credentials that name one",
            remedy="--key administrator.pem",
        )
    return private_key(key)


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read a signer's key.

    Raises:
        CommandError: the file holds none; the message does not quote it.
    """
    from stream_executor.key_text import read_private_key

    try:
        return read_private_key(read_text(path))
    except ValueError as error:
        raise CommandError("CONFIG", f"{path}: {error}") from error


def speak(
    reach: Reach,
    operator_key: str | None,
    signer: Ed25519PrivateKey,
    word: Callable[[Speaker], Awaitable[bool]],
) -> bool:
    """Say one word on the control topic; give whether it is new.

    Raises:
        Whatever ``services.speaking`` and the word raise.
    """
    from stream_executor.services.speaking import speaking

    async def say() -> bool:
        root = reach.operator_public_key(operator_key)
        topic = reach.topics.control
        async with speaking(reach.connection, topic, root, signer) as speaker:
            return await word(speaker)

    return asyncio.run(say())


def everything_said(reach: Reach, operator_key: str | None) -> ControlView:
    """Read the control topic to its end."""
    from stream_executor.services.speaking import read_view

    root = reach.operator_public_key(operator_key)
    return asyncio.run(read_view(reach.connection, reach.topics.control, root))
