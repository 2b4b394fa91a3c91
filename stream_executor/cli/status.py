"""``status`` and ``lane list``: what a running instance says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stream_executor.cli.failures import CommandError
from stream_executor.cli.options import Json
from stream_executor.cli.output import print_json, say, table
from stream_executor.cli.reach import Reach, with_reach

lane = typer.Typer(help="One lane per partition.", no_args_is_help=True)

Http = Annotated[
    str | None,
    typer.Option(
        "--http", metavar="URL", help="The HTTP port; else credentials or settings."
    ),
]
HttpToken = Annotated[
    Path | None,
    typer.Option("--http-token", metavar="FILE", help="File with its bearer token."),
]
_TIMEOUT_S = 5.0
_UNAUTHORIZED = 401
_OK = 200


@with_reach
def status(
    *,
    reach: Reach,
    http: Http = None,
    http_token: HttpToken = None,
    json: Json = False,
) -> None:
    """Ask a running instance how it is."""
    document = ask(reach, http, http_token)
    if json:
        print_json(document)
        return
    service = document["service"]
    health, ready = document["health"], document["readiness"]
    say(f"instance  {service['instance']} ({service['version']})")
    say(f"health    {_verdict(health)}")
    say(f"ready     {_verdict(ready)}")
    say(f"audience  {document['audience'] or 'not known yet'}")
    say(f"engine    {document['engine'] or 'not known yet'}")
    for worker in service["workers"]:
        lanes = len(worker["lanes"])
        note = f", {worker['note']}" if worker["note"] else ""
        say(
            f"worker    {worker['instance']} pid {worker['pid'] or '-'}, "
            f"{lanes} lanes, {worker['restarts']} restarts{note}"
        )
        if worker["hardening"]:
            say(f"          sandbox: {', '.join(worker['hardening'])}")
    looks = {name: n for name, n in document["compile_cache"].items() if n}
    say("cache     " + (", ".join(f"{n:g} {name}" for name, n in looks.items()) or "-"))
    for name, value in sorted(document["results"].items()):
        if value:
            say(f"results   {name} {value:g}")


@lane.command(name="list")
@with_reach
def list_lanes(
    *,
    reach: Reach,
    http: Http = None,
    http_token: HttpToken = None,
    json: Json = False,
) -> None:
    """List the lanes of a running instance."""
    document = ask(reach, http, http_token)
    rows = sorted(
        (
            one | {"worker": worker["instance"]}
            for worker in document["service"]["workers"]
            for one in worker["lanes"]
        ),
        key=lambda one: one["partition"],
    )
    if json:
        for row in rows:
            print_json(row, schema="lane")
        return
    table(
        ("PARTITION", "STATE", "TERM", "NEXT", "END", "IN FLIGHT", "WORKER", "REASON"),
        [
            [
                str(row[name])
                for name in (
                    "partition", "state", "term", "next", "end", "in_flight", "worker",
                    "reason",
                )
            ]
            for row in rows
        ],
    )  # fmt: skip


def ask(reach: Reach, http: str | None, token: Path | str | None) -> dict[str, Any]:
    """Get ``/status`` of an instance; the token is a file with it, or itself.

    Raises:
        CommandError: nobody answers, or what answers is something else.
    """
    import orjson
    import urllib3

    base = http or _address(reach)
    headers = {}
    if token is not None:
        secret = token.read_text() if isinstance(token, Path) else token
        headers["authorization"] = f"Bearer {secret.strip()}"
    try:
        answer = urllib3.request(
            "GET", f"{base.rstrip('/')}/status", headers=headers, timeout=_TIMEOUT_S,
            retries=False, redirect=False,
        )  # fmt: skip
    except urllib3.exceptions.HTTPError as error:
        raise CommandError(
            "UNAVAILABLE",
            f"nothing answers at {base}",
            cause=str(error),
            remedy="systemctl status wasm-executor, or wasm-executor dev",
        ) from error
    if answer.status == _UNAUTHORIZED:
        raise CommandError(
            "CONFIG",
            f"{base} wants a token",
            cause="WASM_EXECUTOR_HTTP_TOKEN is set there",
            remedy="wasm-executor status --http-token FILE",
        )
    document = orjson.loads(answer.data) if answer.status == _OK else None
    if not isinstance(document, dict) or "service" not in document:
        raise CommandError(
            "UNAVAILABLE",
            f"{base} is no wasm-executor",
            cause=f"GET /status answered {answer.status}",
            remedy="wasm-executor status --http http://HOST:METRICS_PORT",
        )
    return document


def _address(reach: Reach) -> str:
    if reach.credentials is not None and reach.credentials.http is not None:
        return reach.credentials.http
    settings = reach.settings
    scheme = "https" if settings.http_tls_cert_file else "http"
    host = "127.0.0.1" if settings.http_host == "0.0.0.0" else settings.http_host  # noqa: S104 - compared
    return f"{scheme}://{host}:{settings.metrics_port}"


def _verdict(verdict: dict[str, Any]) -> str:
    word = "yes" if verdict["ok"] else "no"
    return "; ".join([word, *verdict["reasons"]])
