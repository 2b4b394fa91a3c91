"""The programs under examples/signing make tokens that a worker accepts.

They run as a user would run them, in their own language, and the token is judged by
the verification that lanes use.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from stream_executor.auth.keys import KeySet, Scope, public_key, secret_key
from stream_executor.auth.token import (
    Place,
    Refusal,
    TokenProfile,
    VerifiedToken,
    verify_token,
)
from stream_executor.model.codes import Code

RECIPES = Path(__file__).parents[2] / "examples" / "signing"
ISSUER, SUBJECT = "orders-service", "svc:orders é"
AUDIENCE = "wasm-executor/test-cluster"
TOPIC, PARTITION = "wasm.requests", 3
KID = "orders-2026"
SECRET = b"kX7+q/2mVb9Zt4LsR1pYw8Uc0dNfEhGjA6iOoK5uM3I="
VALUE = '{"request_id":"r-1","note":"exact bytes, é and all"}\n'.encode()

COMMANDS = {
    "python": [sys.executable, "python/sign.py"],
    "node": ["node", "node/sign.mjs"],
    "go": ["go", "run", "go/sign.go"],
    "java": ["java", "java/Sign.java"],
    "shell": ["bash", "shell/sign.sh"],
}
NEEDS = {"node": ["node"], "go": ["go"], "java": ["javac"], "shell": ["openssl"]}


class Keys(NamedTuple):
    """Both keys as files for the recipes, and as the worker holds them."""

    secret_file: Path
    key_file: Path
    key_set: KeySet


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    private = Ed25519PrivateKey.generate()
    secret_file, key_file = folder / "secret", folder / "key.pem"
    secret_file.write_bytes(SECRET + b"\n")
    key_file.write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    scope = Scope(frozenset({ISSUER}), AUDIENCE)
    public = public_key(private.public_key(), "EdDSA", KID, scope)
    return Keys(secret_file, key_file, KeySet([secret_key(SECRET, scope), public]))


def run_recipe(language: str, algorithm: str, keys: Keys, value_file: Path) -> bytes:
    """Run one recipe as docs/signing.md says; give the token that it prints."""
    command = COMMANDS[language]
    environment = dict(os.environ)
    environment |= {
        "WX_ISSUER": ISSUER,
        "WX_SUBJECT": SUBJECT,
        "WX_AUDIENCE": AUDIENCE,
        "LC_ALL": "C.UTF-8",
    }
    if algorithm == "HS256":
        environment["WX_SECRET_FILE"] = str(keys.secret_file)
    else:
        environment |= {"WX_KEY_FILE": str(keys.key_file), "WX_KID": KID}
    done = subprocess.run(
        [*command, TOPIC, str(PARTITION), str(value_file)],
        cwd=RECIPES,
        env=environment,
        capture_output=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.removesuffix(b"\n")


def judge(
    token: bytes, value: bytes, partition: int, keys: KeySet
) -> VerifiedToken | Refusal:
    headers = (("authorization", b"Bearer " + token),)
    place = Place(TOPIC, partition)
    now_ms = time.time_ns() // 1_000_000
    return verify_token(headers, value, place, now_ms, keys, TokenProfile())


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA"])
@pytest.mark.parametrize(
    "language",
    [
        pytest.param(language, marks=pytest.mark.needs(*NEEDS.get(language, ())))
        for language in COMMANDS
    ],
)
def test_a_recipe_signs_exactly_the_record_it_was_given(
    language: str, algorithm: str, keys: Keys, tmp_path: Path
) -> None:
    value_file = tmp_path / "value.json"
    value_file.write_bytes(VALUE)
    token = run_recipe(language, algorithm, keys, value_file)

    verified = judge(token, VALUE, PARTITION, keys.key_set)
    assert isinstance(verified, VerifiedToken), verified
    assert verified.key.algorithm == algorithm
    assert (verified.principal.iss, verified.principal.sub) == (ISSUER, SUBJECT)
    assert verified.principal.role == "Agent"
    elsewhere = judge(token, VALUE, PARTITION + 1, keys.key_set)
    assert elsewhere == Refusal(Code.AUTH_WRONG_BINDING)
    assert judge(token, VALUE + b" ", PARTITION, keys.key_set) == elsewhere


def test_every_recipe_of_the_folder_is_tried() -> None:
    assert {folder.name for folder in RECIPES.iterdir()} == set(COMMANDS)
