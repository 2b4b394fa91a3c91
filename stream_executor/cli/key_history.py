"""``keys enrol|retire|history|rotate-secret``: which keys count, from when to when."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from stream_executor.cli.failures import CommandError
from stream_executor.cli.options import Json
from stream_executor.cli.orders import (
    OperatorKey,
    OperatorPrivateKey,
    everything_said,
    private_key,
    speak,
)
from stream_executor.cli.output import hint, print_json, say, table
from stream_executor.cli.reach import EnvFile, Reach, with_reach

if TYPE_CHECKING:
    from stream_executor.model.control import KeyPurpose

key_history = typer.Typer()


class Purpose(StrEnum):
    """What an enrolled key signs."""

    FLEET = "fleet"
    NOTARY = "notary"
    ADMINISTRATOR = "administrator"

    @property
    def of_record(self) -> KeyPurpose:
        """The record's word for it."""
        from stream_executor.model.control import KeyPurpose

        return KeyPurpose[self.name]


What = Annotated[
    Purpose,
    typer.Argument(metavar="fleet|notary|administrator", help="What it signs."),
]
PublicKey = Annotated[
    str, typer.Argument(metavar="KEY", help="Public key: hex, base64, PEM or a file.")
]


@key_history.command()
@with_reach
def enrol(
    *,
    purpose: What,
    public: PublicKey,
    reach: Reach,
    key: OperatorPrivateKey,
    name: Annotated[str, typer.Option(metavar="TEXT", help="Whose it is.")],
    operator_key: OperatorKey = None,
    json: Json = False,
) -> None:
    """Make a key count from now on; the operator's word."""
    from stream_executor.audit.key_files import public_key
    from stream_executor.services import enrolment

    raw = public_key(public)
    new = speak(
        reach,
        operator_key,
        private_key(key),
        lambda speaker: enrolment.enrol(speaker, purpose.of_record, raw, name),
    )
    _tell(purpose, raw, "enrolled", new=new, as_json=json)


@key_history.command()
@with_reach
def retire(
    *,
    purpose: What,
    public: PublicKey,
    reach: Reach,
    key: OperatorPrivateKey,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; for people.")],
    operator_key: OperatorKey = None,
    json: Json = False,
) -> None:
    """End a key for good; what it signed before stays believed."""
    from stream_executor.audit.key_files import public_key
    from stream_executor.services import enrolment

    raw = public_key(public)
    try:
        new = speak(
            reach,
            operator_key,
            private_key(key),
            lambda speaker: enrolment.retire(speaker, purpose.of_record, raw, reason),
        )
    except LookupError:
        raise CommandError(
            "NOT_FOUND",
            f"{raw.hex()} was never enrolled as {purpose.value} key",
            remedy="wasm-executor keys history",
        ) from None
    _tell(purpose, raw, "retired", new=new, as_json=json)


@key_history.command()
@with_reach
def history(
    *, reach: Reach, operator_key: OperatorKey = None, json: Json = False
) -> None:
    """List every key that ever counted, oldest first."""
    rows = [
        {
            "purpose": one.purpose.name.lower(),
            "public_key": one.public_key.hex(),
            "name": one.name,
            "enrolled_at": one.enrolled_at,
            "retired_at": one.retired_at,
        }
        for one in everything_said(reach, operator_key).enrolled_keys()
    ]
    if json:
        for row in rows:
            print_json(row, schema="key_history")
        return
    table(
        ("PURPOSE", "PUBLIC KEY", "NAME", "ENROLLED", "RETIRED"),
        [tuple("" if v is None else str(v) for v in row.values()) for row in rows],
    )


@key_history.command(name="rotate-secret")
def rotate_secret(
    *,
    env_file: EnvFile = None,
    grace: Annotated[
        bool,
        typer.Option("--grace", help="Accept the old secret too, until --end-grace."),
    ] = False,
    end_grace: Annotated[
        bool, typer.Option("--end-grace", help="Only end the grace of the last time.")
    ] = False,
) -> None:
    """Put a new JWT_SECRET into the configuration file; never prints it."""
    from stream_executor.services import secret_rotation
    from stream_executor.settings import file_in_use

    config = file_in_use(env_file)
    if grace and end_grace:
        raise CommandError("USAGE", "--grace and --end-grace: one or the other")
    if end_grace:
        ended = secret_rotation.end_grace(config)
        hint("the previous secret is gone" if ended else "there was no grace to end")
    else:
        secret = secret_rotation.new_secret()
        done = secret_rotation.rotate(config, secret, grace=grace)
        hint(f"a new secret is in {done.file}: give it to those who sign")
        if done.grace:
            hint("tokens of the old one are accepted until --end-grace")
    hint("  now: sudo systemctl restart wasm-executor")


def _tell(
    purpose: Purpose, public_key: bytes, state: str, *, new: bool, as_json: bool
) -> None:
    if as_json:
        facts = {
            "purpose": purpose.value,
            "public_key": public_key.hex(),
            "state": state,
            "new": new,
        }
        print_json(facts, schema="key")
        return
    say(public_key.hex())
    hint(f"{state} as {purpose.value} key" + ("" if new else ", as it was before"))
