"""The pages: metrics, probes, status, and an overview for people.

Read-only, no script, no cookie, nothing from other hosts. The probes answer without a
token, because probes cannot have one; they name lanes and reasons, never requesters.
Nothing here waits for anything: every page shows what the supervisor knows already.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, Any

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from stream_executor.http import metrics
from stream_executor.http.status import (
    ABLE,
    ServiceStatus,
    Verdict,
    judge_health,
    judge_readiness,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from stream_executor.http.exposition import Exposition
    from stream_executor.http.metrics import Metric
    from stream_executor.http.tally import Totals

STATUS_SCHEMA = "wasm-executor/status/v1"
OK, UNAUTHORIZED, UNAVAILABLE = 200, 401, 503
PROBES = frozenset({"/live", "/livez", "/ready", "/readyz", "/health", "/healthz"})

_TEMPLATES = Environment(
    loader=PackageLoader("stream_executor.http"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_STYLE = _TEMPLATES.get_template("overview.css").render()
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
}


class StatusDocument(msgspec.Struct, frozen=True):
    """What ``/status`` gives and ``wasm-executor status`` prints.

    Attributes:
        schema: ``STATUS_SCHEMA``; a change of meaning is a new version.
        audience: the aud that tokens need; empty until a worker knows the cluster.
        totals: every counter without a label, by name, since the supervisor's start.
        results: answered offsets by code.
        compile_cache: looks into the compile cache, by what they gave.
    """

    schema: str
    service: ServiceStatus
    engine: str
    audience: str
    health: Verdict
    readiness: Verdict
    totals: dict[str, float]
    results: dict[str, float]
    compile_cache: dict[str, float]


def build_app(
    view: Callable[[], ServiceStatus],
    totals: Totals,
    exposition: Exposition,
    token: str | None = None,
) -> ASGIApp:
    """Make the application.

    Args:
        view: gives the present status.
        totals: counters for the status page.
        exposition: renders ``/metrics``.
        token: a bearer token that all pages but the probes then need.
    """
    pages = _Pages(view, totals, exposition)
    routes = [
        Route("/", pages.overview),
        Route("/metrics", pages.metrics),
        Route("/status", pages.status),
        *(Route(path, pages.live) for path in ("/live", "/livez")),
        *(Route(path, pages.ready) for path in ("/ready", "/readyz")),
        *(Route(path, pages.health) for path in ("/health", "/healthz")),
    ]
    app = Starlette(routes=routes)
    return app if token is None else _TokenGate(app, token)


class _Pages:
    """The handlers; coroutines, because others would each run in a thread."""

    def __init__(
        self,
        view: Callable[[], ServiceStatus],
        totals: Totals,
        exposition: Exposition,
    ) -> None:
        self._view = view
        self._totals = totals
        self._exposition = exposition

    async def live(self, _request: Request) -> Response:
        """Answer: this loop runs. A halted lane is nothing a restart would mend."""
        return _json({"status": "ok"})

    async def ready(self, _request: Request) -> Response:
        status = self._view()
        return _probe(judge_readiness(status), status)

    async def health(self, _request: Request) -> Response:
        status = self._view()
        return _probe(judge_health(status), status)

    async def metrics(self, request: Request) -> Response:
        body, media_type = self._exposition.render(request.headers.get("accept", ""))
        return Response(body, headers={**_HEADERS, "content-type": media_type})

    async def status(self, _request: Request) -> Response:
        return _json(self._document())

    async def overview(self, _request: Request) -> Response:
        document = self._document()
        page = _TEMPLATES.get_template("overview.html").render(
            style=_STYLE,
            document=document,
            service=document.service,
            results={code: n for code, n in document.results.items() if n},
            able=ABLE,
        )
        return Response(page, headers=_HEADERS, media_type="text/html")

    def _document(self) -> StatusDocument:
        status = self._view()
        counters = self._totals.counters.items()
        return StatusDocument(
            schema=STATUS_SCHEMA,
            service=status,
            engine=status.engine,
            audience=status.audience,
            health=judge_health(status),
            readiness=judge_readiness(status),
            totals={name: n for (name, label), n in counters if not label},
            results=self._by_label(metrics.RESULTS),
            compile_cache=self._by_label(metrics.CACHE_LOOKUPS),
        )

    def _by_label(self, metric: Metric) -> dict[str, float]:
        counters = self._totals.counters.items()
        return {label: n for (name, label), n in counters if name == metric.name}


def _probe(verdict: Verdict, status: ServiceStatus) -> Response:
    """Answer 200 or 503 with the reasons, and how the lanes are."""
    states = [lane.state for lane in status.lanes]
    body = {
        "status": "ok" if verdict.ok else "unavailable",
        "reasons": verdict.reasons,
        "lanes": {state: states.count(state) for state in sorted(set(states))},
        "disabled_lanes": [lane for lane in status.lanes if lane.state not in ABLE],
    }
    return _json(body, OK if verdict.ok else UNAVAILABLE)


def _json(body: Any, status: int = OK) -> Response:
    content = msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"
    return Response(content, status, headers=_HEADERS, media_type="application/json")


class _TokenGate:
    """Lets nothing but probes through without the bearer token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PROBES or self._is_authorized(scope["headers"]):
            await self._app(scope, receive, send)
            return
        refusal = _json({"status": "unauthorized"}, UNAUTHORIZED)
        refusal.headers["www-authenticate"] = "Bearer"
        await refusal(scope, receive, send)

    def _is_authorized(self, headers: list[tuple[bytes, bytes]]) -> bool:
        given = [value for name, value in headers if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)
