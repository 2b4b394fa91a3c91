"""``deny``: shut somebody or something out on the whole fleet, and let it in again."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from stream_executor.cli.options import Json
from stream_executor.cli.orders import (
    AdministratorKey,
    OperatorKey,
    administrator,
    everything_said,
    speak,
)
from stream_executor.cli.output import hint, print_json, table
from stream_executor.cli.reach import Reach, with_reach
from stream_executor.model.request import DIGEST_PREFIX

if TYPE_CHECKING:
    from stream_executor.model.control import DenySubject
    from stream_executor.modules.view import Denial

deny = typer.Typer(
    help="Shut out a subject, issuer, key or module: the whole fleet, in a second.",
    no_args_is_help=True,
)


class Kind(StrEnum):
    """What a denial names."""

    SUB = "sub"
    ISS = "iss"
    KID = "kid"
    MODULE = "module"

    @property
    def subject(self) -> DenySubject:
        """The record's word for it."""
        from stream_executor.model.control import DenySubject

        return DenySubject[self.name]


What = Annotated[
    Kind,
    typer.Argument(metavar="sub|iss|kid|module", help="What VALUE is; kid: of a key."),
]
Value = Annotated[
    str, typer.Argument(metavar="VALUE", help="Exact; a module by its SHA-256.")
]


@deny.command()
@with_reach
def add(
    *,
    kind: What,
    value: Value,
    reach: Reach,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; for people.")],
    key: AdministratorKey = None,
    operator_key: OperatorKey = None,
    json: Json = False,
) -> None:
    """Refuse VALUE from now on; requests of a denied subject end in auth_revoked."""
    from stream_executor.services import denying

    new = speak(
        reach,
        operator_key,
        administrator(reach, key),
        lambda speaker: denying.deny(
            speaker, kind.subject, _exact(kind, value), reason
        ),
    )
    _say(kind, value, denied=True, new=new, as_json=json)


@deny.command()
@with_reach
def remove(
    *,
    kind: What,
    value: Value,
    reach: Reach,
    key: AdministratorKey = None,
    operator_key: OperatorKey = None,
    json: Json = False,
) -> None:
    """End a denial; what was refused meanwhile stays refused."""
    from stream_executor.services import denying

    new = speak(
        reach,
        operator_key,
        administrator(reach, key),
        lambda speaker: denying.allow(speaker, kind.subject, _exact(kind, value)),
    )
    _say(kind, value, denied=False, new=new, as_json=json)


@deny.command(name="list")
@with_reach
def list_denials(
    *, reach: Reach, operator_key: OperatorKey = None, json: Json = False
) -> None:
    """List what is denied now, oldest first."""
    view = everything_said(reach, operator_key)
    if json:
        for one in view.denials():
            print_json(_facts(one), schema="denial")
        return
    table(
        ("KIND", "VALUE", "SINCE", "REASON"),
        [
            (one.subject.name.lower(), one.value, _time(one.since_ms), one.reason)
            for one in view.denials()
        ],
    )


def _exact(kind: Kind, value: str) -> str:
    return value.removeprefix(DIGEST_PREFIX) if kind is Kind.MODULE else value


def _say(kind: Kind, value: str, *, denied: bool, new: bool, as_json: bool) -> None:
    if as_json:
        facts = {
            "kind": kind.value,
            "value": _exact(kind, value),
            "denied": denied,
            "new": new,
        }
        print_json(facts, schema="denial")
        return
    state = "denied" if denied else "not denied"
    hint(f"{kind.value} {value} is {state}" + ("" if new else ", as it was before"))


def _facts(one: Denial) -> dict[str, object]:
    return {
        "kind": one.subject.name.lower(),
        "value": one.value,
        "reason": one.reason,
        "control_offset": one.offset,
        "since_ms": one.since_ms,
    }


def _time(since_ms: int) -> str:
    when = dt.datetime.fromtimestamp(since_ms / 1000, dt.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
