"""What a soak sends: mostly good requests, and a seeded share of every other kind.

``KINDS`` is the table. What a kind is owed stands there for tests/unit/soak only; a
run is judged from its records (tests/history/judge), which know nothing of kinds.

Not here: sending (``load``).
"""

from __future__ import annotations

import random
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stream_executor.auth.sign import RequestSigner
from stream_executor.kafka.appender import Outgoing
from stream_executor.model.control import DenySubject
from stream_executor.model.job import Limits
from stream_executor.model.request import (
    Call,
    ExecutionRequest,
    InlineModule,
    ModuleName,
    RequestedLimits,
)
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.modules.orders import UNRAISED
from stream_executor.wire.requests import encode_avro, encode_json
from tests.deployment import ADD, ISSUER
from tests.history.judge import Rules
from tests.history.plain_run import PlainRuns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream_executor.kafka.topics import TopicNames
    from tests.deployment import TestDeployment

FUEL_UNITS = 5_000_000
GRANTED_FUEL_UNITS = 1_000_000_000
_FAULTY = """(module
  (func (export "trap") (result i32) unreachable)
  (func (export "divide") (param i32) (result i32)
    local.get 0 i32.const 0 i32.div_s)
  (func $deep (export "recur") (param i32) (result i32)
    local.get 0 call $deep)
  (func (export "loop") (result i32) (loop (br 0)) i32.const 0))"""
_HANGING = '(module (func (export "spin") (result i32) (loop (br 0)) i32.const 0))'
_FORBIDDEN = '(module (func (export "add") (result i32) i32.const 1))'
_REVOKED = '(module (func (export "add") (result i32) i32.const 2))'
BANNED = "agent-banned"
# One request in so many is remembered, so that what is used again is up to two minutes
# old and was spent before whatever broke meanwhile.
_REMEMBERED_SHARE = 25
_REMEMBERED = 2_500
_LONG_AGO_S = 600
_LARGE_BYTES = 660 * 1024


class Made(NamedTuple):
    """One record to send, of which kind it is, and its token's jti if it has one."""

    kind: str
    outgoing: Outgoing
    jti: str | None = None


class Deployed(Protocol):
    """What must be known of a deployment to send it requests."""

    @property
    def topics(self) -> TopicNames:
        """Names of its topics."""

    @property
    def audience(self) -> str:
        """Its audience."""

    @property
    def secret(self) -> str:
        """Its HS256 secret."""


async def prepare(made: TestDeployment) -> None:
    """Publish the modules, and deny and revoke what is asked for in vain."""
    grant = Limits(GRANTED_FUEL_UNITS, UNRAISED, UNRAISED)
    await made.publish("add@1", ADD)
    await made.publish("faulty@1", _FAULTY)
    await made.publish("hanging@1", _HANGING, grant)
    forbidden = await made.publish("forbidden@1", _FORBIDDEN)
    revoked = await made.publish("revoked@1", _REVOKED)
    await made.order(
        lambda orders: orders.deny(DenySubject.MODULE, forbidden.hex(), "a soak")
    )
    await made.order(lambda orders: orders.revoke(revoked, "a soak"))
    await made.order(lambda orders: orders.deny(DenySubject.SUB, BANNED, "a soak"))


def rules(made: Deployed) -> Rules:
    """Give what the judge must know of a deployment that ``prepare`` prepared."""
    modules = {"add@1": ADD, "faulty@1": _FAULTY, "hanging@1": _HANGING}
    return Rules(
        made.topics.requests, made.audience, ISSUER, made.secret.encode(),
        PlainRuns(modules, FUEL_UNITS), hanging=frozenset({"hanging@1"}),
        denied_subjects=frozenset({BANNED}),
        denied_modules=frozenset({"forbidden@1"}),
    )  # fmt: skip


class Mix:
    """Makes one partition's records; one seed, one sequence of kinds.

    Args:
        made: the deployment.
        partition: which.
        seed: of the kinds.
        numbers: shared by all mixes, so that no request and no jti is made twice.
        others: the mixes of all partitions, this one included.
    """

    def __init__(
        self,
        made: Deployed,
        partition: int,
        seed: int,
        numbers: Iterator[int],
        others: list[Mix],
    ) -> None:
        self.used: deque[Made] = deque(maxlen=_REMEMBERED)
        self.aborted: deque[Made] = deque(maxlen=_REMEMBERED)
        self._topic = made.topics.requests
        self._partition = partition
        self._numbers = numbers
        self._others = others
        self.chance = random.Random(f"{seed}-{partition}")  # noqa: S311 - no secret
        self._agent = self._signer(made.secret, made.audience)
        self._banned = self._signer(made.secret, made.audience, BANNED)
        self._forger = self._signer(secrets.token_urlsafe(40), made.audience)
        self._stranger = self._signer(made.secret, "somebody/else")

    @staticmethod
    def _signer(secret: str, audience: str, subject: str = "agent-7") -> RequestSigner:
        return RequestSigner.from_secret(
            secret, issuer=ISSUER, subject=subject, audience=audience
        )

    def batch(self, count: int) -> list[Made]:
        """Make so many records, or one more where one is sent twice in a row."""
        made: list[Made] = []
        for name in self.chance.choices(_NAMES, _SHARES, k=count):
            made += self.make(name)
        return made

    def make(self, kind: str) -> list[Made]:
        """Make one record of a kind; a good one if it needs an older that is not."""
        found = KINDS[kind].make(self)
        if not found:
            kind, found = GOOD, KINDS[GOOD].make(self)
        return [one._replace(kind=kind) for one in found]

    def sent(self, records: list[Made]) -> None:
        """Take note that these are in the log: some of them will be used again."""
        spent = [
            one
            for one in records
            if one.jti is not None and not KINDS[one.kind].owed.startswith("auth_")
        ]
        self.used += self.chance.sample(spent, len(spent) // _REMEMBERED_SHARE)

    def signed(
        self,
        value: bytes,
        signer: RequestSigner | None = None,
        *,
        jti: str | None = None,
        partition: int | None = None,
        ago_s: int = 0,
        role: str = "Agent",
        body: bytes | None = None,
        key: bytes | None = None,
    ) -> list[Made]:
        """Sign a value; ``body`` is what the record holds instead of it."""
        jti = jti or self._jti()
        token = (signer or self._agent).sign(
            self._topic, self._partition if partition is None else partition, value,
            now_s=int(time.time()) - ago_s, jti=jti, role=role,
        )  # fmt: skip
        return [self.bearing(token, value if body is None else body, jti, key)]

    def bearing(
        self,
        token: bytes | None,
        value: bytes = b"",
        jti: str | None = None,
        key: bytes | None = None,
    ) -> Made:
        """Give a record with a token, or with none."""
        headers = [] if token is None else [("authorization", b"Bearer " + token)]
        return Made("", Outgoing(value, headers, key), jti)

    def ask(
        self,
        module: str = "add@1",
        function: str = "add",
        arguments: int = 2,
        limits: RequestedLimits | None = None,
        not_after_ms: int | None = None,
    ) -> ExecutionRequest:
        """Ask for a call with small numbers."""
        number = next(self._numbers)
        values = [number % 1_000_000_000, 1][:arguments]
        args = b"".join(pack_value(ValueType.I32, value) for value in values)
        name, _, version = module.partition("@")
        return ExecutionRequest(
            f"r-{number}", ModuleName(name, version), Call(function, args), limits,
            not_after_ms,
        )  # fmt: skip

    def asking(self, module: str, function: str, arguments: int = 0) -> list[Made]:
        """Ask, and sign."""
        return self.signed(encode_json(self.ask(module, function, arguments)))

    def _jti(self) -> str:
        return f"soak-{next(self._numbers):012}"

    # -- kinds that need more than a line ------------------------------------------

    def replayed(self) -> list[Made]:
        """The same record again, bit by bit."""
        return [self.chance.choice(self.used)] if self.used else []

    def jti_again(self) -> list[Made]:
        """Another request with a jti that was spent here."""
        if not self.used:
            return []
        value = encode_json(self.ask())
        return self.signed(value, jti=self.chance.choice(self.used).jti)

    def jti_of_another_lane(self) -> list[Made]:
        """A request with a jti that was spent on another partition: good here."""
        other = self.chance.choice(self._others)
        if other is self or not other.used:
            return []
        # Taken away there: here it would be a replay the next time.
        return self.signed(encode_json(self.ask()), jti=other.used.popleft().jti)

    def elsewhere(self) -> list[Made]:
        """The very record of another partition."""
        other = self.chance.choice(self._others)
        if other is self or not other.used:
            return []
        return [self.chance.choice(other.used)]

    def twice(self) -> list[Made]:
        """A good record, and right behind it itself."""
        return self.signed(encode_json(self.ask())) * 2

    def after_abort(self) -> list[Made]:
        """The record of a transaction that was aborted: its token was never spent."""
        return [self.aborted.popleft()] if self.aborted else []

    def cut_off(self) -> list[Made]:
        """The first half of a request, in either form."""
        encode = self.chance.choice([encode_json, encode_avro])
        value = encode(self.ask())
        return self.signed(value[: len(value) // 2])

    def inline(self) -> list[Made]:
        """An inline module that is too large."""
        asked = self.ask()
        module = InlineModule(bytes(_LARGE_BYTES))
        large = ExecutionRequest(asked.request_id, module, asked.invocation)
        return self.signed(encode_json(large))

    def two_tokens(self) -> list[Made]:
        """A good token, and another header of that name."""
        made = self.signed(encode_json(self.ask()))[0]
        twofold = [*made.outgoing.headers, *made.outgoing.headers]
        return [Made("", Outgoing(made.outgoing.value, twofold))]


class Kind(NamedTuple):
    """How often of 100,000, what it is owed if it is sent alone, and how it is made."""

    share: int
    owed: str
    make: Callable[[Mix], list[Made]]


def _json(mix: Mix) -> bytes:
    return encode_json(mix.ask())


GOOD = "good"
# Deadlines cost their time, and unknown modules a question to the broker: few of them.
KINDS: dict[str, Kind] = {
    GOOD: Kind(0, "succeeded", lambda mix: mix.signed(_json(mix))),
    "good, Avro": Kind(
        5_000, "succeeded", lambda mix: mix.signed(encode_avro(mix.ask()))
    ),
    "good, with a key": Kind(
        1_000, "succeeded", lambda mix: mix.signed(_json(mix), key=b"a key")
    ),
    "good, after an abort": Kind(500, "succeeded", Mix.after_abort),
    "good, jti of another lane": Kind(200, "succeeded", Mix.jti_of_another_lane),
    "replay": Kind(1_000, "auth_replayed", Mix.replayed),
    "replay, at once": Kind(500, "auth_replayed", Mix.twice),
    "replay of a jti": Kind(1_000, "auth_replayed", Mix.jti_again),
    "replay elsewhere": Kind(500, "auth_wrong_binding", Mix.elsewhere),
    "other body": Kind(
        300, "auth_wrong_binding", lambda mix: mix.signed(b"other", body=_json(mix))
    ),
    "expired": Kind(
        500, "auth_expired", lambda mix: mix.signed(_json(mix), ago_s=_LONG_AGO_S)
    ),
    "of the future": Kind(
        100, "auth_not_yet_valid",
        lambda mix: mix.signed(_json(mix), ago_s=-_LONG_AGO_S),
    ),
    "forged": Kind(
        500, "auth_bad_signature", lambda mix: mix.signed(_json(mix), mix._forger)
    ),
    "other audience": Kind(
        100, "auth_wrong_audience", lambda mix: mix.signed(_json(mix), mix._stranger)
    ),
    "no token": Kind(400, "auth_missing", lambda mix: [mix.bearing(None, _json(mix))]),
    "no token, no value": Kind(100, "auth_missing", lambda mix: [mix.bearing(None)]),
    "two tokens": Kind(100, "auth_malformed", Mix.two_tokens),
    "garbled token": Kind(
        300, "auth_malformed",
        lambda mix: [mix.bearing(mix.chance.randbytes(60), _json(mix))],
    ),
    "large token": Kind(
        20, "auth_malformed", lambda mix: [mix.bearing(b"x" * 9_000, _json(mix))]
    ),
    "huge header": Kind(
        5, "invalid_request", lambda mix: [mix.bearing(b"x" * 300_000, _json(mix))]
    ),
    "garbage": Kind(
        400, "invalid_request", lambda mix: mix.signed(mix.chance.randbytes(200))
    ),
    "cut off": Kind(300, "invalid_request", Mix.cut_off),
    "no value": Kind(100, "invalid_request", lambda mix: mix.signed(b"")),
    "large module": Kind(5, "module_too_large", Mix.inline),
    "banned subject": Kind(
        200, "auth_revoked", lambda mix: mix.signed(_json(mix), mix._banned)
    ),
    "other role": Kind(
        100, "access_denied",
        lambda mix: mix.signed(
            _json(mix), role=mix.chance.choice(["Auditor", "Administrator"])
        ),
    ),
    "past not_after": Kind(
        200, "not_after_passed",
        lambda mix: mix.signed(encode_json(mix.ask(not_after_ms=1))),
    ),
    "unknown module": Kind(
        20, "module_not_found", lambda mix: mix.asking("nobody@1", "add")
    ),
    "revoked module": Kind(
        100, "module_not_found", lambda mix: mix.asking("revoked@1", "add")
    ),
    "denied module": Kind(
        200, "denied_by_policy", lambda mix: mix.asking("forbidden@1", "add")
    ),
    "unknown function": Kind(
        100, "function_not_found", lambda mix: mix.asking("add@1", "sub", 2)
    ),
    "too few arguments": Kind(
        100, "bad_arguments", lambda mix: mix.asking("add@1", "add", 1)
    ),
    "unreachable": Kind(300, "trap", lambda mix: mix.asking("faulty@1", "trap")),
    "division by zero": Kind(
        200, "trap", lambda mix: mix.asking("faulty@1", "divide", 1)
    ),
    "recursion": Kind(
        50, "stack_overflow", lambda mix: mix.asking("faulty@1", "recur", 1)
    ),
    "little fuel": Kind(
        400, "fuel_exhausted",
        lambda mix: mix.signed(
            encode_json(
                mix.ask("faulty@1", "loop", 0, RequestedLimits(fuel_units=20_000))
            )
        ),
    ),
    "deadline": Kind(
        5, "timeout",
        lambda mix: mix.signed(
            encode_json(
                mix.ask("hanging@1", "spin", 0, RequestedLimits(deadline_ms=50))
            )
        ),
    ),
}  # fmt: skip
KINDS[GOOD] = KINDS[GOOD]._replace(
    share=100_000 - sum(kind.share for kind in KINDS.values())
)
_NAMES = list(KINDS)
_SHARES = [kind.share for kind in KINDS.values()]
