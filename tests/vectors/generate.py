"""Make ``wire.json``: inputs and the bytes that they must always give.

Run it after a *new* kind of bytes was added; a vector that is there never changes,
because such bytes lie in seven-year logs. ``--write`` writes ``wire.json`` and the
examples in ``docs/wire-format.md``; without it nothing is written.

    python tests/vectors/generate.py --write
"""

from __future__ import annotations

import argparse
import hmac
import json
import re
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stream_executor.audit.chain import leaf_hash
from stream_executor.audit.digests import (
    BODY_TAG,
    INPUT_TAG,
    OUTPUT_TAG,
    Salter,
    content_digest,
    guest_seed,
)
from stream_executor.audit.signing import certify, public_bytes, signed
from stream_executor.auth.jose import encode_segment
from stream_executor.auth.keys import (
    public_members,
    secret_key_id,
    thumbprint,
)
from stream_executor.auth.token import jti_hash
from stream_executor.lane.conclusion import input_of, output_of
from stream_executor.model.audit import (
    ZERO32,
    Genesis,
    LaneReleased,
    Principal,
    RequestRefused,
    Seal,
)
from stream_executor.model.control import ControlGenesis, KeyEnrolled, KeyPurpose
from stream_executor.model.job import InvocationKind, Job, Limits, Report, WasiInput
from stream_executor.model.record import Range
from stream_executor.model.request import Call, ExecutionRequest, ModuleName
from stream_executor.model.result import ExecutionResult
from stream_executor.model.scalars import ValueType, pack_bits, pack_value
from stream_executor.wire import requests, results
from stream_executor.wire.avro import encode, signed_part
from stream_executor.wire.modules import encode_module
from stream_executor.wire.schemas import header, schema_digests, schema_texts

if TYPE_CHECKING:
    from collections.abc import Callable

Vectors = dict[str, dict[str, str]]
WIDTH, FOLD = 84, 76
FOLDER = Path(__file__).parent
FILE = FOLDER / "wire.json"
DOCUMENT = FOLDER.parent.parent / "docs" / "wire-format.md"
BLOCK = re.compile(r"(<!-- vector: (\S+) -->\n```text\n)(.*?)(```)", re.DOTALL)

SECRET = bytes(range(32))
LOG_ID = bytes(range(16))
BODY = (
    b'{"request_id":"r-1","module":"add@1","invocation":'
    b'{"kind":"call","function":"add","args":[{"i32":2},{"i32":3}]}}'
)
NOW_MS = 1_750_000_000_000
JWT_SECRET = b"a secret for examples only, 32+ bytes"


def key(number: int) -> Ed25519PrivateKey:
    """Give the example key whose 32 private bytes are all this number."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


OPERATOR, FLEET, PROCESS, ADMINISTRATOR = key(1), key(2), key(3), key(4)


def schema_headers() -> dict[str, str]:
    """Give the ten bytes of each schema."""
    return {name: header(name).hex() for name in schema_texts()}


def leaf() -> dict[str, str]:
    """Give a small leaf, whole and in its parts."""
    value = encode(
        LaneReleased(7, sha256(b"the leaf before").digest(), 2, 300, "drain")
    )
    return {
        "header": value[:10].hex(),
        "seq 7": value[10:11].hex(),
        "prev": value[11:43].hex(),
        "term 2": value[43:44].hex(),
        "next 300": value[44:46].hex(),
        'reason "drain"': value[46:].hex(),
        "value": value.hex(),
        "leaf_hash": leaf_hash(value).hex(),
    }


def genesis() -> dict[str, str]:
    """Give a genesis leaf."""
    value = signed(
        Genesis(
            0, ZERO32, LOG_ID, "cluster-1", "wasm.requests", "wasm.results",
            "wasm.audit", "wasm.modules", "wasm.control", "wasm.checkpoints", 0, 4, 0,
            public_bytes(OPERATOR), public_bytes(key(5)), None, NOW_MS,
        ),
        OPERATOR,
    )  # fmt: skip
    return {
        "operator_key": public_bytes(OPERATOR).hex(),
        "value": value.hex(),
        "signed_tag": _tag(value),
        "signature": value[-64:].hex(),
        "leaf_hash": leaf_hash(value).hex(),
    }


def seal() -> dict[str, str]:
    """Give a seal: of five offsets, two answered, three in gaps."""
    certificate = certify(public_bytes(PROCESS), FLEET, NOW_MS)
    spent = jti_hash("issuer.example", "c29tZSByYW5kb20gdGV4dA")
    value = signed(
        Seal(
            12, sha256(b"the leaf before").digest(), LOG_ID, 0, 1, 10, 15, 2,
            [Range(11, 13), Range(14, 15)], 13, NOW_MS + 20,
            sha256(b"anchor").digest(), NOW_MS + 20, 12, 9, spent, 4, 1, 1, 0, 1, 0, 0,
            certificate.process_key, certificate.fleet_key, certificate.certified_ms,
            certificate.certificate,
        ),
        PROCESS,
    )  # fmt: skip
    return {
        "process_key": certificate.process_key.hex(),
        "fleet_key": certificate.fleet_key.hex(),
        "certified_ms": str(NOW_MS),
        "certificate_message": (
            b"wasm-executor/certificate/v1\n"
            + certificate.process_key
            + certificate.fleet_key
            + NOW_MS.to_bytes(8, "big")
        ).hex(),
        "certificate": certificate.certificate.hex(),
        "value": value.hex(),
        "signed_tag": _tag(value),
        "signature": value[-64:].hex(),
    }


def refusal() -> dict[str, str]:
    """Give an event of one authenticated, refused request."""
    principal = Principal(
        "issuer.example", "agent-7", "Agent", "k1",
        thumbprint(public_members(FLEET.public_key())),
        sha256(b"a compact token").digest(),
        jti_hash("issuer.example", "c29tZSByYW5kb20gdGV4dA"),
        1_750_000_000, 1_750_000_120,
    )  # fmt: skip
    salt = Salter(SECRET, LOG_ID).salt(13)
    value = encode(
        RequestRefused(
            11, sha256(b"the leaf before").digest(), 13, 1, NOW_MS + 20, NOW_MS + 20,
            NOW_MS + 25, "r-1", principal, "REJECTED", "module_not_found",
            spent=True, context_seq=1, body_digest=content_digest(BODY_TAG, salt, BODY),
            result_s256=sha256(b"the result record's value").digest(),
        )
    )  # fmt: skip
    return {"value": value.hex(), "leaf_hash": leaf_hash(value).hex()}


def control() -> dict[str, str]:
    """Give the first two records of a control chain."""
    first = signed(
        ControlGenesis(
            0, ZERO32, NOW_MS, "prod", "cluster-1", "prod/cluster-1",
            public_bytes(OPERATOR),
        ),
        OPERATOR,
    )  # fmt: skip
    second = signed(
        KeyEnrolled(
            1, leaf_hash(first), NOW_MS, int(KeyPurpose.FLEET), public_bytes(FLEET),
            "prod fleet", public_bytes(OPERATOR),
        ),
        OPERATOR,
    )  # fmt: skip
    return {
        "operator_key": public_bytes(OPERATOR).hex(),
        "genesis": first.hex(),
        "genesis_tag": _tag(first),
        "genesis_leaf_hash": leaf_hash(first).hex(),
        "enrolment": second.hex(),
        "enrolment_tag": _tag(second),
        "head": leaf_hash(second).hex(),
    }


def digests() -> dict[str, str]:
    """Give a salt and what is made with it."""
    salt = Salter(SECRET, LOG_ID).salt(13)
    packed = pack_value(ValueType.I32, 2) + pack_value(ValueType.I32, 3)
    five = pack_value(ValueType.I32, 5)
    return {
        "deployment_secret": SECRET.hex(),
        "log_id": LOG_ID.hex(),
        "offset": "13",
        "salt": salt.hex(),
        "body": BODY.decode(),
        "body_digest": content_digest(BODY_TAG, salt, BODY).hex(),
        "input": packed.hex(),
        "input_digest": content_digest(INPUT_TAG, salt, packed).hex(),
        "output": five.hex(),
        "output_digest": content_digest(OUTPUT_TAG, salt, five).hex(),
    }


def wasi_content() -> dict[str, str]:
    """Give the content that a command's input and output digests cover."""
    job = Job(
        bytes(32), int(InvocationKind.WASI), "_start", b"in", Limits(1, 1, 1), 1, 1,
        bytes(32), WasiInput(("prog", "-v"), (("HOME", "/"),), (("/a", b"xyz"),)),
    )  # fmt: skip
    report = Report(output=b"out", stderr=b"err", exit_code=3)
    return {
        "input": input_of(job).hex(),
        "output": output_of(job.kind, report).hex(),
    }


def seed() -> dict[str, str]:
    """Give a guest's seed."""
    module = sha256(b"\0asm\1\0\0\0").digest()
    return {
        "module_s256": module.hex(),
        "body": BODY.decode(),
        "seed": guest_seed(module, BODY).hex(),
    }


def names() -> dict[str, str]:
    """Give a jti hash and the ids of keys."""
    public = FLEET.public_key()
    return {
        "iss": "issuer.example",
        "jti": "c29tZSByYW5kb20gdGV4dA",
        "jti_hash": jti_hash("issuer.example", "c29tZSByYW5kb20gdGV4dA").hex(),
        "ed25519_key": public.public_bytes_raw().hex(),
        "thumbprint": thumbprint(public_members(public)),
        "secret": JWT_SECRET.decode(),
        "secret_key_id": secret_key_id(JWT_SECRET),
    }


def token() -> dict[str, str]:
    """Give a signed request: value and token, under a secret and under a key."""
    claims = {
        "iss": "wasm-executor", "sub": "agent-7", "aud": "wasm-executor/cluster-1",
        "iat": 1_750_000_000, "exp": 1_750_000_120, "jti": "c29tZSByYW5kb20gdGV4dA",
        "role": "Agent",
        "wx": {
            "v": 1, "topic": "wasm.requests", "partition": 3,
            "body_s256": encode_segment(sha256(BODY).digest()).decode(),
        },
    }  # fmt: skip
    payload = encode_segment(_compact(claims))
    by_secret = (
        encode_segment(_compact({"alg": "HS256", "typ": "JWT"})) + b"." + payload
    )
    by_key = encode_segment(_compact({"alg": "EdDSA", "kid": "k1"})) + b"." + payload

    mac = hmac.digest(JWT_SECRET, by_secret, "sha256")
    return {
        "value": BODY.decode(),
        "claims": _compact(claims).decode(),
        "secret": JWT_SECRET.decode(),
        "hs256": (by_secret + b"." + encode_segment(mac)).decode(),
        "ed25519_key": FLEET.public_key().public_bytes_raw().hex(),
        "eddsa": (by_key + b"." + encode_segment(FLEET.sign(by_key))).decode(),
    }


def request() -> dict[str, str]:
    """Give a request in both forms."""
    wanted = ExecutionRequest(
        "r-1",
        ModuleName("add", "1"),
        Call("add", pack_value(ValueType.I32, 2) + pack_value(ValueType.I32, 3)),
    )
    return {
        "json": requests.encode_json(wanted).decode(),
        "avro": requests.encode_avro(wanted).hex(),
    }


def result() -> dict[str, str]:
    """Give a result in both forms, and what its event says of the JSON one."""
    given = ExecutionResult(
        "wasm.requests", 0, 13, 1, "r-1", "SUCCEEDED", None, "", None, 0,
        pack_value(ValueType.I32, 5), b"", stdout_truncated=False,
        stderr_truncated=False, exit_code=None, fuel_consumed=7, fuel_exact=True,
        memory_bytes=65536, duration_us=31, module_s256=sha256(b"\0asm").digest(),
        engine="wasmtime 50.0.1", salt=Salter(SECRET, LOG_ID).salt(13), log_id=LOG_ID,
        seq=11,
    )  # fmt: skip
    text = results.encode_json(given)
    return {
        "json": text.decode(),
        "result_s256": sha256(text).hexdigest(),
        "avro": results.encode_avro(given).hex(),
    }


def scalars() -> dict[str, str]:
    """Give packed scalars, each with its JSON form."""
    packed = {
        '{"i32": -1}': pack_value(ValueType.I32, -1),
        '{"i64": "9223372036854775807"}': pack_value(ValueType.I64, (1 << 63) - 1),
        '{"f32": 1.5}': pack_value(ValueType.F32, 1.5),
        '{"f64": -0.25}': pack_value(ValueType.F64, -0.25),
        '{"f64": "0x8000000000000000"}': pack_bits(ValueType.F64, 1 << 63),
        '{"f32": "0x7fc00000"}': pack_bits(ValueType.F32, 0x7FC00000),
    }
    return {text: value.hex() for text, value in packed.items()}


def module() -> dict[str, str]:
    """Give a record of the modules topic."""
    wasm = b"\0asm\1\0\0\0"
    return {
        "module": wasm.hex(),
        "record_key": sha256(wasm).hexdigest(),
        "value": encode_module(wasm).hex(),
    }


def context() -> dict[str, str]:
    """Give the digests that lane.acquired and context cite."""
    ids = sorted(["b2c3d4e5", thumbprint(public_members(FLEET.public_key()))])
    text = "".join(f"{one}\n" for one in ids)
    return {
        "key_ids": " ".join(ids),
        "keys_s256": sha256(text.encode()).hexdigest(),
        "policy_s256 without a policy": sha256(b"").hexdigest(),
    }


SECTIONS: dict[str, Callable[[], dict[str, str]]] = {
    "schema-headers": schema_headers,
    "leaf": leaf,
    "genesis": genesis,
    "seal": seal,
    "refusal": refusal,
    "control": control,
    "digests": digests,
    "wasi-content": wasi_content,
    "seed": seed,
    "names": names,
    "token": token,
    "request": request,
    "result": result,
    "scalars": scalars,
    "module": module,
    "context": context,
}


def vectors() -> Vectors:
    """Give every vector, computed by the code under test."""
    made = {name: make() for name, make in SECTIONS.items()}
    made["schema-digests"] = {n: d.hex() for n, d in schema_digests().items()}
    return made


def render(vector: dict[str, str]) -> str:
    """Give a vector as an example's lines: ``name = value``, long ones folded.

    A newline in a value is written as ``\\n``.
    """
    lines = []
    for name, plain in vector.items():
        value = plain.replace("\n", "\\n")
        if len(name) + 3 + len(value) <= WIDTH:
            lines.append(f"{name} = {value}")
        else:
            parts = [value[at : at + FOLD] for at in range(0, len(value), FOLD)]
            lines += [f"{name} =", *(f"    {part}" for part in parts)]
    return "\n".join(lines) + "\n"


def fill(document: str, made: Vectors) -> str:
    """Give the document with its examples as they must be."""
    return BLOCK.sub(
        lambda m: m.group(1) + render(made[m.group(2)]) + m.group(4), document
    )


def _tag(value: bytes) -> str:
    covered = signed_part(value)
    return covered[: len(covered) - len(value) + 64].decode()


def _compact(members: object) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


def main() -> None:
    """Write the files if asked to; say what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    made = vectors()
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    if parser.parse_args().write:
        FILE.write_text(text, encoding="utf-8")
        DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), made))
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != text:
        raise SystemExit("wire.json is not what the code gives")


if __name__ == "__main__":
    main()
