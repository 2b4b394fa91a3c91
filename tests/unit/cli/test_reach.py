"""Where a command finds its brokers, topics and trust root."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest

from stream_executor.audit.key_files import public_key
from stream_executor.audit.signing import public_bytes
from stream_executor.auth.inspection import inspect_token
from stream_executor.cli import main
from stream_executor.cli.failures import CommandError
from stream_executor.cli.invocation import Asked, reference
from stream_executor.cli.reach import Reach
from stream_executor.cli.signing import signer_of
from stream_executor.client.credentials import (
    Credentials,
    CredentialTopics,
    write_credentials,
)
from stream_executor.model.errors import ConfigError
from stream_executor.model.request import Bytes, Call, Wasi
from stream_executor.modules.orders import Orders
from stream_executor.modules.view import ControlView
from stream_executor.services import speaking
from tests.lane_world import OPERATOR

if TYPE_CHECKING:
    from pathlib import Path

KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


@pytest.fixture(autouse=True)
def configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config.env"
    config.write_text(
        "KAFKA_BOOTSTRAP_SERVERS=configured:1\nWASM_EXECUTOR_REQUESTS_TOPIC=configured\n"
        f"WASM_EXECUTOR_OPERATOR_PUBLIC_KEY={KEY}\n"
    )
    monkeypatch.setenv("WASM_EXECUTOR_ENV_FILE", str(config))
    monkeypatch.chdir(tmp_path)


def credentials(folder: Path) -> Path:
    path = folder / "credentials.json"
    write_credentials(
        path,
        Credentials(
            bootstrap_servers="credentials:1",
            audience="a",
            issuer="i",
            subject="s",
            topics=CredentialTopics(requests="mine"),
            kafka={"client.id": "me"},
            operator_public_key=KEY.upper(),
        ),
    )
    return path


def test_the_configuration_is_what_there_is_if_nothing_is_said() -> None:
    reach = Reach()
    assert reach.connection.bootstrap_servers == "configured:1"
    assert reach.topics.requests == "configured"
    assert reach.operator_public_key().hex() == KEY


def test_a_key_with_a_slash_is_no_path(tmp_path: Path) -> None:
    raw = bytes([255]) * 32
    text = base64.b64encode(raw).decode()
    assert "/" in text
    assert public_key(text) == raw
    (tmp_path / "key.hex").write_text(raw.hex())
    assert public_key(str(tmp_path / "key.hex")) == raw
    assert Reach().operator_public_key(text) == raw
    for name in ("/no/such/file", "/no/such/file" * 50, "ä" * 200):
        with pytest.raises(ConfigError, match="neither a file that can be read nor"):
            public_key(name)


def test_a_private_key_that_was_pasted_for_a_public_one_is_not_quoted() -> None:
    secret = base64.b64encode(bytes(range(48))).decode()
    pasted = f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"
    with pytest.raises(ConfigError) as caught:
        public_key(pasted)
    assert secret[:8] not in str(caught.value)


def test_credentials_need_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WASM_EXECUTOR_ENV_FILE", "/nowhere/at/all")
    reach = Reach(credentials_file=credentials(tmp_path))
    assert reach.connection.bootstrap_servers == "credentials:1"
    assert reach.connection.client_id == "me"
    assert reach.topics.requests == "mine"
    assert reach.operator_public_key().hex() == KEY


def test_the_nearer_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "client.properties").write_text(
        "bootstrap.servers=file:1\nsecurity.protocol=SSL\nsasl.usrname=typo\n"
    )
    reach = Reach(
        credentials_file=credentials(tmp_path),
        command_config=tmp_path / "client.properties",
        command_property=["client.id=given"],
        bootstrap_server="option:1",
    )
    connection = reach.connection
    assert connection.bootstrap_servers == "option:1"
    assert connection.security_protocol == "SSL"
    assert connection.client_id == "given"
    assert "sasl.usrname" in capsys.readouterr().err


def test_a_bootstrap_server_alone_means_the_usual_topics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WASM_EXECUTOR_ENV_FILE", "/nowhere/at/all")
    reach = Reach(bootstrap_server="option:1")
    assert reach.topics.requests == "wasm.requests"
    assert reach.connection.bootstrap_servers == "option:1"


def test_the_trust_root_may_be_a_file_and_never_comes_from_nowhere(
    tmp_path: Path,
) -> None:
    (tmp_path / "operator.pub").write_text(KEY)
    reach = Reach(bootstrap_server="b:1")
    assert reach.operator_public_key("operator.pub").hex() == KEY
    with pytest.raises(CommandError, match="operator's public key"):
        reach.operator_public_key("nonsense")


def test_whoever_said_no_brokers_is_told_which_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Reach().connection  # noqa: B018 - the configuration names them
    assert not capsys.readouterr().err
    (tmp_path / "config.env").write_text("")
    assert Reach().connection.bootstrap_servers == "localhost:9092"
    shown = capsys.readouterr().err
    assert "EXECUTOR_CREDENTIALS" in shown
    assert "localhost:9092" in shown
    with pytest.raises(CommandError) as caught:
        Reach().operator_public_key()
    assert "EXECUTOR_CREDENTIALS" in caught.value.remedy


def test_what_is_given_makes_the_kind_of_request(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"abc")
    called = Asked(function="f", args=["i64:5"], fuel=7).request("m@1")
    assert isinstance(called.invocation, Call)
    assert called.limits is not None
    assert called.limits.fuel_units == 7
    assert Asked(input=data).request("m@1").invocation == Bytes(b"abc")
    wasi = Asked(stdin=data, argv=["m"], env=["A=b=c"], files=[f"/x={data}"])
    assert wasi.request("m@1").invocation == Wasi(
        ("m",), (("A", "b=c"),), b"abc", (("/x", b"abc"),)
    )
    assert Asked().request("m@1").invocation == Wasi()
    with pytest.raises(CommandError, match="NAME=VALUE"):
        Asked(env=["A"]).request("m@1")
    with pytest.raises(CommandError, match="--arg needs --function"):
        Asked(args=["i64:5"]).request("m@1")


@pytest.mark.parametrize(
    ("name", "lang"),
    [("m.c", "c"), ("m.rs", "rust"), ("m.ts", "assemblyscript"), ("m.zig", "c")],
)
def test_a_source_must_be_compiled_first(tmp_path: Path, name: str, lang: str) -> None:
    (tmp_path / name).write_text("int main;")
    with pytest.raises(CommandError, match="compile it") as caught:
        reference(name)
    assert f"module new NAME --lang {lang}," in caught.value.remedy
    (tmp_path / "m.wat").write_text("(modul)")
    with pytest.raises(CommandError, match="no WebAssembly text"):
        reference("m.wat")


def test_a_module_is_a_file_or_a_name(tmp_path: Path) -> None:
    (tmp_path / "m@1").write_bytes(b"\0asm\1\0\0\0")
    assert reference("m@1") == b"\0asm\1\0\0\0"
    assert reference("n@1") == "n@1"
    assert reference("sha256:00") == "sha256:00"
    for wrong in ("n", "folder/n@1"):
        with pytest.raises(CommandError, match="no file and no module"):
            reference(wrong)


def test_a_secret_is_rotated_in_the_file_that_is_in_use(tmp_path: Path) -> None:
    config = tmp_path / "config.env"  # as WASM_EXECUTOR_ENV_FILE names it
    before = f"JWT_SECRET={'5a' * 32}\n"
    config.write_text(config.read_text() + before)
    assert main.main(["keys", "rotate-secret"]) == 0
    assert "JWT_SECRET=" in config.read_text()
    assert before not in config.read_text()


async def test_commands_sign_for_the_audience_that_init_wrote(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever APP_ID is now: workers ask for what the control chain says."""
    view = ControlView(public_bytes(OPERATOR))
    orders = Orders(view, OPERATOR, 1)
    view.apply(0, 1, orders.genesis("first name", "c1", "first name/c1"))

    async def read_view(*_: object) -> ControlView:
        return view

    monkeypatch.setattr(speaking, "read_view", read_view)
    config = tmp_path / "config.env"
    more = f"JWT_SECRET={bytes(range(32, 72)).hex()}\nWASM_EXECUTOR_APP_ID=renamed\n"
    config.write_text(config.read_text() + more)
    token = (await signer_of(Reach())).sign("topic", 0, b"value", now_s=1)
    claims = inspect_token(token).claims
    assert claims is not None
    assert claims["aud"] == "first name/c1"


def test_properties_that_are_none_of_a_connections_are_passed_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_HEAP_OPTS", "-Xmx1g")
    assert Reach().used_properties == {"bootstrap.servers": "configured:1"}
    assert "heap.opts" in capsys.readouterr().err
