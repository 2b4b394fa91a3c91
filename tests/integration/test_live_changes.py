"""What an operator changes while the fleet works: denials, keys, policy, TLS."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import ssl
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from stream_executor.auth.jwks import generate_key, jwks
from stream_executor.auth.sign import RequestSigner
from stream_executor.kafka.appender import Appender
from stream_executor.model.audit import Context, RequestRefused
from stream_executor.model.control import DenyAdded
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire.avro import CODECS, class_of
from stream_executor.wire.requests import encode_json
from tests.deployment import ADD, Executor, TestDeployment, deployment
from tests.integration.http.test_server import certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

GRACE_MS = 1_000
VALUE = encode_json(
    ExecutionRequest(
        "r", ModuleName("add", "1"), Call("add", pack_value(ValueType.I32, 1) * 2)
    )
)


class Fleet:
    """Two executors with one lane each, and the files that they read again."""

    def __init__(self, made: TestDeployment) -> None:
        self.made = made
        self.folder = made.folder
        self.key = generate_key("EdDSA", "first")
        self.jwks, self.policy = made.folder / "jwks.json", made.folder / "policy.toml"
        self.jwks.write_bytes(self.key_set())
        self.policy.write_text("[[rule]]\n")
        self.executors: list[Executor] = []

    def key_set(self, *more: dict[str, object]) -> bytes:
        rights = {"wx_role": "Agent", "wx_issuers": ["idp"]}
        return jwks([key | rights for key in (self.key.jwk, *more)])

    def signer(self, private_pem: bytes, kid: str, sub: str = "s") -> RequestSigner:
        return RequestSigner.from_private_key(
            private_pem, kid=kid, issuer="idp", subject=sub, audience=self.made.audience
        )

    async def outcome(
        self, partition: int = 0, signer: RequestSigner | None = None
    ) -> str:
        """Ask and wait; ``succeeded`` or the code."""
        async with Appender(self.made.connection) as appender:
            offset = await self.made.ask(appender, partition, VALUE, signer)
        return (await self.made.result(partition, offset)).code or "succeeded"

    async def command(self, *arguments: str, key: str = "administrator") -> str:
        path = str(self.made.folder / "keys" / f"{key}.pem")
        code, out, err = await self.made.command(*arguments, "--key", path)
        assert code == 0, err
        return out

    async def reload(self) -> None:
        """SIGHUP; return when both say that they have."""
        counts = [e.log.read_text().count("worker.reloaded") for e in self.executors]
        for executor in self.executors:
            executor.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            for executor, before in zip(self.executors, counts, strict=True):
                while executor.log.read_text().count("worker.reloaded") <= before:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(
    kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("live")
    async with deployment(kafka_bootstrap, folder, 2) as made:
        await made.publish("add@1", ADD)
        fleet = Fleet(made)
        cert, key = certificate(folder, 30)
        made.settings |= {
            "WASM_EXECUTOR_JWKS_FILE": str(fleet.jwks),
            "WASM_EXECUTOR_POLICY_FILE": str(fleet.policy),
        }
        fleet.executors = [
            made.start(
                WASM_EXECUTOR_HTTP_TLS_CERT_FILE=str(cert),
                WASM_EXECUTOR_HTTP_TLS_KEY_FILE=str(key),
                WASM_EXECUTOR_HTTP_TOKEN="metrics-token-of-this-test",
            ),
            made.start(),
        ]
        await fleet.executors[1].ready()
        for partition in (0, 1):
            assert await fleet.outcome(partition) == "succeeded"
        yield fleet


async def keep_asking(
    fleet: Fleet,
    appender: Appender,
    partition: int,
    signer: RequestSigner,
    places: set[tuple[int, int]],
    stop: asyncio.Event,
) -> None:
    while not stop.is_set():
        offset = await fleet.made.ask(appender, partition, VALUE, signer)
        places.add((partition, offset))
        await asyncio.sleep(0.05)


async def asked_after(fleet: Fleet, partition: int, time_ms: int) -> int:
    """Count the requests that were appended later than that."""
    asked = await fleet.made.records(fleet.made.topics.requests, partition)
    return sum(record.timestamp > time_ms for record in asked)


async def denials(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """Give what `deny list` shows: kind and reason by value."""
    _, out, _ = await fleet.made.command("deny", "list", "--json")
    rows = map(json.loads, out.splitlines())
    return {row["value"]: (row["kind"], row["reason"]) for row in rows}


async def refusals(fleet: Fleet, partition: int) -> list[str | None]:
    """Give the codes that a lane's log refused requests with."""
    events = await fleet.made.records(fleet.made.topics.audit, partition)
    values = [record.value or b"" for record in events]
    return [
        CODECS[RequestRefused].decode(value).code
        for value in values
        if class_of(value) is RequestRefused
    ]


async def test_a_denial_acts_on_the_whole_fleet_within_a_second_and_is_audited(
    fleet: Fleet,
) -> None:
    """Judged by the broker's clock alone; the word itself is on the control chain."""
    made = fleet.made
    culprit = made.signer("culprit")
    places: set[tuple[int, int]] = set()
    async with Appender(made.connection) as appender, asyncio.TaskGroup() as tasks:
        stop = asyncio.Event()
        for partition in (0, 1):
            tasks.create_task(
                keep_asking(fleet, appender, partition, culprit, places, stop)
            )
        async with asyncio.timeout(60):
            while len(places) < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        out = await fleet.command(
            "deny", "add", "sub", "culprit", "--reason", "stolen", "--json"
        )
        assert json.loads(out)["new"] is True
        said = (await made.records(made.topics.control, 0))[-1]
        assert class_of(said.value or b"") is DenyAdded
        deadline = said.timestamp + GRACE_MS
        async with asyncio.timeout(60):
            while min([await asked_after(fleet, p, deadline) for p in (0, 1)]) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        stop.set()

    codes = {place: (await made.result(*place)).code for place in places}
    assert None in codes.values(), "nothing ran before: the test would prove nothing"
    for partition in (0, 1):
        for record in await made.records(made.topics.requests, partition):
            place = (partition, record.offset)
            if place in places and record.timestamp > deadline:
                assert codes[place] == "auth_revoked"
        assert "auth_revoked" in await refusals(fleet, partition)

    assert (await denials(fleet))["culprit"] == ("sub", "stolen")
    assert await fleet.outcome(0) == "succeeded"  # others go on
    await fleet.command("deny", "remove", "sub", "culprit")
    async with asyncio.timeout(30):
        while await fleet.outcome(0, culprit) != "succeeded":
            pass
    assert "culprit" not in await denials(fleet)


async def test_key_set_and_policy_are_read_again_at_sighup(fleet: Fleet) -> None:
    """A new key counts, a removed one no more; each change is an event of its lane."""
    second = generate_key("ES256", "second")
    signer = fleet.signer(second.private_pem, "second")
    assert await fleet.outcome(0, signer) == "auth_unknown_key"

    fleet.jwks.write_bytes(fleet.key_set(second.jwk))
    await fleet.reload()
    assert await fleet.outcome(0, signer) == "succeeded"

    fleet.policy.write_text('[[rule]]\nissuer = "tests"\n')
    await fleet.reload()
    assert await fleet.outcome(0, signer) == "denied_by_policy"
    assert await fleet.outcome(0) == "succeeded"

    fleet.policy.write_text("[[rule]]\n")
    fleet.jwks.write_bytes(fleet.key_set())
    await fleet.reload()
    assert await fleet.outcome(0, signer) == "auth_unknown_key"

    events = await fleet.made.records(fleet.made.topics.audit, 0)
    kinds = [class_of(r.value or b"") for r in events]
    assert kinds.count(Context) >= 3


async def test_what_cannot_be_read_at_sighup_changes_nothing(fleet: Fleet) -> None:
    policy = fleet.policy.read_text()
    fleet.policy.write_text("[[rule]]\nno_such_rule = 1\n")
    for executor in fleet.executors:
        executor.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(20):
        for executor in fleet.executors:
            while "reload_refused" not in executor.log.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert await fleet.outcome(1) == "succeeded"
    fleet.policy.write_text(policy)
    await fleet.reload()


async def test_the_certificate_is_read_again_at_sighup(fleet: Fleet) -> None:
    """New connections see the new one; health needs no token, metrics do."""
    port = fleet.executors[0].port

    def served() -> str:
        return ssl.get_server_certificate(("127.0.0.1", port))

    before = await asyncio.to_thread(served)
    certificate(fleet.folder, 60)  # the same names
    await fleet.reload()
    assert await asyncio.to_thread(served) != before

    async def status(path: str, *headers: str) -> int:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        lines = [f"GET {path} HTTP/1.1", "host: x", "connection: close", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = await reader.read()
        writer.close()
        return int(answer.split(b" ")[1])

    assert await status("/health") == 200
    assert await status("/live") == 200
    for path in ("/metrics", "/status", "/"):
        assert await status(path) == 401
        assert await status(path, "authorization: Bearer wrong") == 401
    right = "authorization: Bearer metrics-token-of-this-test"
    assert await status("/metrics", right) == 200


async def test_administrators_are_enrolled_and_retired_by_the_operator(
    fleet: Fleet,
) -> None:
    """A retired Administrator's word does not count any more."""
    made, keys = fleet.made, fleet.folder / "keys"
    code, out, err = await made.command(
        "keys", "generate", "--out", str(keys / "second.pem"), "--json"
    )
    assert code == 0, err
    jwk = json.loads(out)["jwk"]
    public = base64.urlsafe_b64decode(jwk["x"] + "=").hex()
    code, _, err = await made.command(
        "deny", "add", "kid", "x", "--reason", "no right", "--key", f"{keys}/second.pem"
    )
    assert (code, "would ignore" in err) == (2, True), err

    await fleet.command(
        "keys", "enrol", "administrator", public, "--name", "two", key="operator"
    )
    await fleet.command("deny", "add", "kid", "x", "--reason", "right", key="second")
    await fleet.command(
        "keys", "retire", "administrator", public, "--reason", "left", key="operator"
    )
    code, _, err = await made.command(
        "deny", "remove", "kid", "x", "--key", f"{keys}/second.pem"
    )
    assert code == 2, err
    _, out, _ = await made.command("keys", "history", "--json")
    (row,) = [r for r in map(json.loads, out.splitlines()) if r["public_key"] == public]
    assert row["retired_at"] > row["enrolled_at"]


@pytest_asyncio.fixture(loop_scope="module")
async def as_it_was(fleet: Fleet) -> AsyncIterator[None]:
    """Give the fleet its first secret back, whatever the test did."""
    secret = fleet.made.secret
    yield
    await restarted(fleet, {"JWT_SECRET": secret})


@pytest.mark.usefixtures("as_it_was")
async def test_a_secret_is_rotated_with_grace_and_without(fleet: Fleet) -> None:
    """The manual's rotation, and one in which nobody notices."""
    made = fleet.made
    config = fleet.folder / "config.env"
    config.write_text(f"JWT_SECRET={made.secret}\n")
    first = made.signer()

    async def rotated(*options: str) -> None:
        code, out, err = await made.command(
            "keys", "rotate-secret", "--env-file", str(config), *options
        )
        assert code == 0, err
        written = dict(line.split("=", 1) for line in config.read_text().splitlines())
        assert not any(secret in out + err for secret in written.values())
        await restarted(fleet, written)

    async def outcomes(*signers: RequestSigner) -> list[str]:
        partition = await lane_of(fleet.executors[1])
        return [await fleet.outcome(partition, signer) for signer in signers]

    await rotated("--grace")
    second = made.signer()
    assert await outcomes(first, second) == ["succeeded", "succeeded"]
    await rotated("--end-grace")
    assert await outcomes(first, second) == ["auth_bad_signature", "succeeded"]
    await rotated()
    third = made.signer()
    assert await outcomes(second, third) == ["auth_bad_signature", "succeeded"]


async def restarted(fleet: Fleet, secrets: dict[str, str]) -> None:
    """Restart one executor with these secrets, as `systemctl restart` would."""
    made = fleet.made
    for name in ("JWT_SECRET", "JWT_SECRET_PREVIOUS"):
        made.settings.pop(name, None)
    made.settings |= secrets
    made.secret = secrets["JWT_SECRET"]
    assert await fleet.executors[1].stop() == 0
    fleet.executors[1] = made.start(WASM_EXECUTOR_INSTANCE_ID=f"{made.prefix}-1")
    await fleet.executors[1].ready()


async def lane_of(executor: Executor) -> int:
    """Give the one partition that an executor serves, once it does."""
    async with asyncio.timeout(60):
        while True:
            lanes = await asyncio.to_thread(executor.running_lanes)
            if len(lanes) == 1:
                return lanes[0]
            await asyncio.sleep(0.1)
