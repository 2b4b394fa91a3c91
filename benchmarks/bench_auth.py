"""What believing a request costs, stage by stage, beside PyJWT's own decode.

    python benchmarks/bench_auth.py [--repeat N]

Prints one table for each algorithm: microseconds (the best of many short runs, so
that other load on the machine counts least) and the ratio to ``jwt.decode`` of the same
token in the same run. Ratios are what to compare between machines. PyJWT's column
proves less: no binding to topic, partition and body, repeated names taken.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from typing import TYPE_CHECKING

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from stream_executor.auth.claims import quick_claims, strict_claims
from stream_executor.auth.jwks import generate_key, jwks, read_jwk_set
from stream_executor.auth.keys import KeySet, Scope, secret_key
from stream_executor.auth.replay import ReplayBudget, ReplayWindow
from stream_executor.auth.sign import RequestSigner
from stream_executor.auth.token import (
    Place,
    TokenProfile,
    VerifiedToken,
    jti_hash,
    verify_token,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SCOPE = Scope(frozenset({"https://issuer.example"}), "wasm-executor/bench")
SECRET = b"Yk0pQ7vN3mB8cL2sW9dF4gH6jR1tX5zK"
PLACE = Place("wasm.requests", 3)
VALUE = (
    b'{"request_id":"r-000000001","module":{"name":"add","version":"1.0.0"},'
    b'"invocation":{"call":{"function":"add","args":["i32:2","i32:3"]}}}'
)
NOW_S = 1_790_000_000
RUN_CALLS = 200
SKIP_TIME = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}


def best_us(call: Callable[[], object], repeat: int) -> float:
    """Give the microseconds of one call in the best of ``repeat`` runs."""
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        for _ in range(RUN_CALLS):
            call()
        best = min(best, time.perf_counter() - start)
    return best / RUN_CALLS * 1e6


def signer_and_keys(algorithm: str) -> tuple[RequestSigner, KeySet, object]:
    """Make a signer, the worker's key set, and the key in PyJWT's form."""
    names = {"issuer": next(iter(SCOPE.issuers)), "subject": "team-a/agent-7"}
    if algorithm == "HS256":
        signer = RequestSigner.from_secret(SECRET, audience=SCOPE.audience, **names)
        return signer, KeySet([secret_key(SECRET, SCOPE)]), SECRET
    pair = generate_key(algorithm)
    signer = RequestSigner.from_private_key(
        pair.private_pem, kid=str(pair.jwk["kid"]), audience=SCOPE.audience, **names
    )
    keys = KeySet(read_jwk_set(jwks([pair.jwk]), SCOPE).keys)
    return signer, keys, load_pem_private_key(pair.private_pem, None).public_key()


def measure(algorithm: str, repeat: int) -> None:
    """Print the table of one algorithm."""
    signer, keys, pyjwt_key = signer_and_keys(algorithm)
    token = signer.sign(PLACE.topic, PLACE.partition, VALUE, now_s=NOW_S)
    headers = (("authorization", b"Bearer " + token),)
    profile = TokenProfile()
    now_ms = NOW_S * 1000
    verdict = verify_token(headers, VALUE, PLACE, now_ms, keys, profile)
    assert isinstance(verdict, VerifiedToken)
    key, principal = verdict.key, verdict.principal
    signing_input, _, signature = token.rpartition(b".")
    payload = signing_input.partition(b".")[2]
    forged = (("authorization", b"Bearer " + token[:-8] + b"AAAAAAAA"),)

    stages: list[tuple[str, Callable[[], object]]] = [
        (
            "jwt.decode",
            lambda: jwt.decode(
                token,
                pyjwt_key,  # type: ignore[arg-type]
                algorithms=[algorithm],
                audience=SCOPE.audience,
                issuer=principal.iss,
                options=SKIP_TIME,  # type: ignore[arg-type]
            ),
        ),
        (
            "verify_token, all of it",
            lambda: verify_token(headers, VALUE, PLACE, now_ms, keys, profile),
        ),
        ("  signature", lambda: key.verify(signing_input, signature)),
        ("  claims, ordinary", lambda: quick_claims(payload)),
        ("  body digest", lambda: hashlib.sha256(VALUE).digest()),
        ("  token digest", lambda: hashlib.sha256(token).digest()),
        ("  jti hash", lambda: jti_hash(principal.iss, "x" * 24)),
        ("claims, strict way", lambda: strict_claims(payload)),
        (
            "a forged signature",
            lambda: verify_token(forged, VALUE, PLACE, now_ms, keys, profile),
        ),
    ]
    times = [(name, best_us(call, repeat)) for name, call in stages]
    print(f"\n{algorithm}: token of {len(token)} bytes, value of {len(VALUE)}")
    print(f"{'stage':<28}{'us':>8}{'of jwt.decode':>16}")
    for name, microseconds in times:
        print(f"{name:<28}{microseconds:>8.2f}{microseconds / times[0][1]:>16.2f}")


def measure_replay() -> None:
    """Print the table of the replay window at sustained rates, past its horizon."""
    print(f"\n{'replay window':<28}{'us/spend':>8}{'held':>10}{'bytes each':>12}")
    for rate in (100, 1000, 3000):
        budget = ReplayBudget()
        window = ReplayWindow(budget, TokenProfile().replay_window_ms)
        spent_s = 0.0
        for second in range(200):
            hashes = [os.urandom(16) for _ in range(rate)]
            start = time.perf_counter()
            for each in hashes:
                window.spend(each, second * 1000)
            spent_s += time.perf_counter() - start
        us = spent_s / (200 * rate) * 1e6
        size = budget.used_bytes / len(window)
        print(f"{f'{rate}/s for 200 s':<28}{us:>8.2f}{len(window):>10}{size:>12.1f}")


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=100)
    repeat = parser.parse_args().repeat
    for algorithm in ("HS256", "EdDSA"):
        measure(algorithm, repeat)
    measure_replay()


if __name__ == "__main__":
    main()
