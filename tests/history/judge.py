"""What each request is owed, said from its record alone: the judge of a run.

Reads tokens with ``hmac`` and ``json``, requests with ``json`` and ``fastavro``:
nothing of ``auth``, ``wire`` and ``lane`` is used, so that what they do wrong shows.
Knows one HS256 secret and calls of published modules; what a module gives
``plain_run`` says.

Not here: orders that change while requests come. The rules hold from before the first.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import fastavro

from tests.history.counting import Outcome

if TYPE_CHECKING:
    from stream_executor.model.record import Record
    from tests.history.plain_run import PlainRuns

MAX_TOKEN_BYTES = 8192
MAX_APPEND_AGE_S = 120
MAX_LIFETIME_S = 3600
LEEWAY_S = 30
MAX_INLINE_BYTES = 640 * 1024
_BEARER = b"Bearer "
_AVRO_HEADER = bytes.fromhex("c3013645850aa8783a3a")  # docs/wire-format.md
_SCHEMA = fastavro.parse_schema(
    json.loads(
        (Path(__file__).parents[2] / "schemas/ExecutionRequest.v1.avsc").read_text()
    )
)


class Rules(NamedTuple):
    """What holds for every partition of a deployment.

    Attributes:
        topic, audience, issuer, secret: of its requests and their tokens.
        runs: its published modules.
        hanging: those of them that only their deadline ends.
        denied_subjects, denied_modules: by name.
    """

    topic: str
    audience: str
    issuer: str
    secret: bytes
    runs: PlainRuns
    hanging: frozenset[str] = frozenset()
    denied_subjects: frozenset[str] = frozenset()
    denied_modules: frozenset[str] = frozenset()


class _Request(NamedTuple):
    """Of a request, what its answer depends on; ``module`` is None for an inline one.

    ``inline`` is that one's size.
    """

    module: str | None
    inline: int
    function: str
    numbers: list[int]
    fuel_units: int | None
    not_after_ms: int | None


class Judge:
    """Judges one partition's records, in the order of the log."""

    def __init__(self, rules: Rules, partition: int) -> None:
        self._rules = rules
        self._partition = partition
        self._lane_time = 0
        self._spent: set[str] = set()

    def __call__(self, record: Record) -> Outcome:
        """Give what this record is owed."""
        self._lane_time = max(self._lane_time, record.timestamp)
        if getattr(record, "problem", None):  # an offset without a proper record
            return _rejected("invalid_request")
        value = record.value or b""
        code = self._refusal_of_token(record, value)
        if code is not None:
            return _rejected(code)
        try:
            request = _read(value)
        except (ValueError, KeyError, TypeError, EOFError, IndexError):
            return _rejected("invalid_request")
        return self._answer(request)

    def _refusal_of_token(self, record: Record, value: bytes) -> str | None:
        credentials = [text for name, text in record.headers if name == "authorization"]
        if not credentials:
            return "auth_missing"
        token = credentials[0].removeprefix(_BEARER)
        if (
            len(credentials) > 1
            or token == credentials[0]
            or len(token) > MAX_TOKEN_BYTES
        ):
            return "auth_malformed"
        try:
            header, payload, signature = token.split(b".")
            named, claims = _object(header), _object(payload)
        except ValueError:
            return "auth_malformed"
        if named["alg"] != "HS256" or "kid" in named:
            return "auth_unknown_key"
        signed = hmac.digest(self._rules.secret, header + b"." + payload, "sha256")
        if not hmac.compare_digest(signature, _segment(signed)):
            return "auth_bad_signature"
        return self._refusal_of_claims(claims, value)

    def _refusal_of_claims(  # noqa: PLR0911 - one return a refusal
        self, claims: dict[str, Any], value: bytes
    ) -> str | None:
        rules, now_ms = self._rules, self._lane_time
        if (claims["aud"], claims["iss"]) != (rules.audience, rules.issuer):
            return "auth_wrong_audience"
        bound = {
            "v": 1, "topic": rules.topic, "partition": self._partition,
            "body_s256": _segment(hashlib.sha256(value).digest()).decode(),
        }  # fmt: skip
        if claims["wx"] != bound:
            return "auth_wrong_binding"
        issued, expires = claims["iat"], claims["exp"]
        if (issued - LEEWAY_S) * 1000 > now_ms:
            return "auth_not_yet_valid"
        if (
            (expires + LEEWAY_S) * 1000 <= now_ms
            or (issued + MAX_APPEND_AGE_S) * 1000 < now_ms
            or not 0 < expires - issued <= MAX_LIFETIME_S
        ):
            return "auth_expired"
        if claims["jti"] in self._spent:
            return "auth_replayed"
        self._spent.add(claims["jti"])  # whatever becomes of it now
        if claims["sub"] in rules.denied_subjects:
            return "auth_revoked"
        # HS256 may speak for an Agent and for nobody above.
        return None if claims["role"] == "Agent" else "access_denied"

    def _answer(self, request: _Request) -> Outcome:
        rules, module = self._rules, request.module
        if request.inline > MAX_INLINE_BYTES:
            return _rejected("module_too_large")
        if request.not_after_ms is not None:
            if request.not_after_ms >= self._lane_time:
                message = "what a worker's clock decides is not for this judge"
                raise NotImplementedError(message)
            return Outcome("EXPIRED", "not_after_passed")
        if module in rules.denied_modules:
            return _rejected("denied_by_policy")
        if module is None or module not in rules.runs:
            return _rejected("module_not_found")
        if module in rules.hanging:
            return Outcome("FAILED", "timeout")
        return rules.runs.run(
            module, request.function, request.numbers, request.fuel_units
        )


def _rejected(code: str) -> Outcome:
    return Outcome("REJECTED", code)


def _read(value: bytes) -> _Request:
    """Read a request of either form.

    Raises:
        ValueError, KeyError, TypeError, EOFError, IndexError: it is none.
    """
    if value.startswith(_AVRO_HEADER):
        body = io.BytesIO(value[len(_AVRO_HEADER) :])
        plain: Any = fastavro.schemaless_reader(body, _SCHEMA)
        if body.read(1):
            raise ValueError(value)
        name, call, limits = plain["module"], plain["invocation"], plain["limits"]
        module, inline = f"{name['name']}@{name['version']}", 0
        numbers = [argument["value"] for argument in call["args"]]
    else:
        plain = json.loads(value)
        name, call, limits = plain["module"], plain["invocation"], plain.get("limits")
        module, inline = name, 0
        if isinstance(name, dict):
            module, inline = None, len(b64decode(name["inline"]))
        numbers = [int(argument["i32"]) for argument in call["args"]]
    fuel_units = (limits or {}).get("fuel_units")
    not_after_ms = plain.get("not_after_ms")
    return _Request(module, inline, call["function"], numbers, fuel_units, not_after_ms)


def _object(segment: bytes) -> dict[str, Any]:
    """Read a token's segment.

    Raises:
        ValueError: it is no JSON object in base64url.
    """
    found = json.loads(urlsafe_b64decode(segment + b"=" * (-len(segment) % 4)))
    if not isinstance(found, dict):
        raise ValueError(segment)  # noqa: TRY004 - one kind of error for the caller
    return found


def _segment(content: bytes) -> bytes:
    return urlsafe_b64encode(content).rstrip(b"=")
