"""Check ``wire.json`` without the code under test: hashlib, cryptography, json.

It follows ``docs/wire-format.md`` and shares no line with the package, so what both
agree on is the format and not a slip in one of them. Prints one line a vector;
exit code 1 on the first disagreement.

    python tests/vectors/verify_independently.py
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import sys
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FOLDER = Path(__file__).resolve().parent
SCHEMAS = FOLDER.parent.parent / "schemas"
PRIMITIVES = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def leaf_hash(value: bytes) -> bytes:
    return sha256(b"\x00" + value)


def same(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise SystemExit(f"{what}: expected {expected!r}, found {found!r}")


def signed(key: str, signature: bytes, message: bytes, what: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
            signature, message
        )
    except InvalidSignature:
        raise SystemExit(f"{what}: the signature does not verify") from None


# Avro 1.11: Parsing Canonical Form and CRC-64-AVRO.


def canonical(schema: Any, namespace: str) -> Any:
    if isinstance(schema, str):
        known = schema in PRIMITIVES or "." in schema
        return schema if known else f"{namespace}.{schema}"
    if isinstance(schema, list):
        return [canonical(branch, namespace) for branch in schema]
    kind = schema["type"]
    if kind == "array":
        return {"type": "array", "items": canonical(schema["items"], namespace)}
    if kind in PRIMITIVES:
        return kind
    namespace = schema.get("namespace", namespace)
    form: dict[str, Any] = {"name": f"{namespace}.{schema['name']}", "type": kind}
    if kind == "record":
        form["fields"] = [
            {"name": f["name"], "type": canonical(f["type"], namespace)}
            for f in schema["fields"]
        ]
    elif kind == "enum":
        form["symbols"] = schema["symbols"]
    else:
        form["size"] = schema["size"]
    return form


def crc64(data: bytes) -> bytes:
    empty = 0xC15D213AA4D7A795
    crc = empty
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (empty if crc & 1 else 0)
    return crc.to_bytes(8, "little")


def header_of(schema_name: str) -> bytes:
    schema = json.loads((SCHEMAS / f"{schema_name}.avsc").read_text())
    form = json.dumps(canonical(schema, ""), separators=(",", ":"), ensure_ascii=False)
    return b"\xc3\x01" + crc64(form.encode())


# A reader of Avro's binary form, as small as it can be.


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.named: dict[str, Any] = {}

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        same(len(part), count, "a value ends too early")
        self.at += count
        return part

    def long(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)

    def read(self, schema: Any) -> Any:  # noqa: PLR0911 - one return a schema kind
        if isinstance(schema, list):
            return self.read(schema[self.long()])
        if isinstance(schema, str):
            if schema in self.named:
                return self.read(self.named[schema])
            return self.primitive(schema)
        kind = schema["type"]
        if kind == "array":
            return self.array(schema["items"])
        if kind in PRIMITIVES:
            return self.primitive(kind)
        self.named[schema["name"]] = schema
        if kind == "fixed":
            return self.take(schema["size"])
        if kind == "enum":
            return schema["symbols"][self.long()]
        return {f["name"]: self.read(f["type"]) for f in schema["fields"]}

    def primitive(self, name: str) -> Any:
        if name == "null":
            return None
        if name == "boolean":
            return self.take(1) == b"\x01"
        if name in {"int", "long"}:
            return self.long()
        if name in {"float", "double"}:
            return self.take(4 if name == "float" else 8)
        data = self.take(self.long())
        return data if name == "bytes" else data.decode()

    def array(self, items: Any) -> list[Any]:
        found = []
        while count := self.long():
            found += [self.read(items) for _ in range(count)]
        return found


def decode(value: bytes, schema_name: str) -> dict[str, Any]:
    same(value[:10], header_of(schema_name), f"header of {schema_name}")
    reader = Reader(value[10:])
    schema = json.loads((SCHEMAS / f"{schema_name}.avsc").read_text())
    decoded: dict[str, Any] = reader.read(schema)
    same(reader.at, len(value) - 10, f"length of {schema_name}")
    return decoded


def content(tag: str, salt: bytes, data: bytes) -> str:
    return sha256(tag.encode() + b"\x00" + salt + data).hex()


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# The vectors.


def schema_headers(v: dict[str, str]) -> None:
    same(set(v), {p.stem for p in SCHEMAS.glob("*.avsc")}, "schemas")
    for name, header in v.items():
        same(header_of(name).hex(), header, name)


def schema_digests(v: dict[str, str]) -> None:
    for name, digest in v.items():
        data = (SCHEMAS / f"{name}.avsc").read_bytes()
        same(sha256(data).hex(), digest, name)


def leaf(v: dict[str, str]) -> None:
    value = bytes.fromhex(v["value"])
    parts = [part for name, part in v.items() if name not in {"value", "leaf_hash"}]
    same("".join(parts), v["value"], "parts")
    said = decode(value, "LaneReleased.v1")
    same(
        (said["seq"], said["term"], said["next"], said["reason"]),
        (7, 2, 300, "drain"),
        "fields",
    )
    same(leaf_hash(value).hex(), v["leaf_hash"], "leaf hash")


def genesis(v: dict[str, str]) -> None:
    value = bytes.fromhex(v["value"])
    said = decode(value, "Genesis.v1")
    same((said["seq"], said["prev"]), (0, bytes(32)), "root")
    same(said["operator_key"].hex(), v["operator_key"], "operator key")
    same(v["signed_tag"], "wasm-executor/genesis/v1\n", "tag")
    signed(
        v["operator_key"],
        value[-64:],
        v["signed_tag"].encode() + value[:-64],
        "genesis",
    )
    same(value[-64:].hex(), v["signature"], "signature")
    same(leaf_hash(value).hex(), v["leaf_hash"], "leaf hash")


def seal(v: dict[str, str]) -> None:
    value = bytes.fromhex(v["value"])
    said = decode(value, "Seal.v1")
    gaps = sum(gap["end"] - gap["start"] for gap in said["gaps"])
    same(said["answered"] + gaps, said["next"] - said["from"], "completeness")
    same(len(said["spent"]) % 16, 0, "spent")
    certificate = (
        b"wasm-executor/certificate/v1\n"
        + said["process_key"]
        + said["fleet_key"]
        + said["certified_ms"].to_bytes(8, "big")
    )
    same(certificate.hex(), v["certificate_message"], "certificate message")
    signed(v["fleet_key"], said["certificate"], certificate, "certificate")
    same(v["signed_tag"], "wasm-executor/seal/v1\n", "tag")
    signed(
        v["process_key"], value[-64:], v["signed_tag"].encode() + value[:-64], "seal"
    )
    same(value[-64:].hex(), v["signature"], "signature")


def refusal(v: dict[str, str]) -> None:
    value = bytes.fromhex(v["value"])
    said = decode(value, "RequestRefused.v1")
    same((said["offset"], said["count"], said["spent"]), (13, 1, True), "fields")
    same(leaf_hash(value).hex(), v["leaf_hash"], "leaf hash")


def control(v: dict[str, str]) -> None:
    first, second = bytes.fromhex(v["genesis"]), bytes.fromhex(v["enrolment"])
    begun = decode(first, "ControlGenesis.v1")
    enrolled = decode(second, "KeyEnrolled.v1")
    same((begun["serial"], begun["prev"]), (0, bytes(32)), "root")
    same(enrolled["serial"], 1, "serial")
    same(enrolled["prev"], leaf_hash(first), "prev")
    same(enrolled["purpose"], "FLEET", "purpose")
    same(v["genesis_tag"], "wasm-executor/control.genesis/v1\n", "tag")
    same(v["enrolment_tag"], "wasm-executor/key.enrolled/v1\n", "tag")
    for value, tag in ((first, v["genesis_tag"]), (second, v["enrolment_tag"])):
        signed(v["operator_key"], value[-64:], tag.encode() + value[:-64], tag)
    same(leaf_hash(first).hex(), v["genesis_leaf_hash"], "leaf hash")
    same(leaf_hash(second).hex(), v["head"], "head")


def digests(v: dict[str, str]) -> None:
    message = bytes.fromhex(v["log_id"]) + int(v["offset"]).to_bytes(8, "big")
    mac = hmac.new(bytes.fromhex(v["deployment_secret"]), message, hashlib.sha256)
    salt = mac.digest()[:16]
    same(salt.hex(), v["salt"], "salt")
    same(content("wx/body/v1", salt, v["body"].encode()), v["body_digest"], "body")
    for what in ("input", "output"):
        data = bytes.fromhex(v[what])
        same(content(f"wx/{what}/v1", salt, data), v[f"{what}_digest"], what)


def wasi_content(v: dict[str, str]) -> None:
    number = (2).to_bytes(4, "big")
    said = (
        number + sized(b"prog") + sized(b"-v")
        + number + sized(b"HOME") + sized(b"/")
        + (1).to_bytes(4, "big") + sized(b"/a") + sized(b"xyz")
        + sized(b"in")
    )  # fmt: skip
    same(said.hex(), v["input"], "input")
    gave = sized(b"out") + sized(b"err") + (3).to_bytes(4, "big", signed=True)
    same(gave.hex(), v["output"], "output")


def seed(v: dict[str, str]) -> None:
    made = sha256(
        b"wx/seed/v1\x00" + bytes.fromhex(v["module_s256"]) + v["body"].encode()
    )
    same(made.hex(), v["seed"], "seed")


def names(v: dict[str, str]) -> None:
    jti = sha256(f"wx/jti/v1\0{v['iss']}\0{v['jti']}".encode())[:16]
    same(jti.hex(), v["jti_hash"], "jti hash")
    x = unpadded(bytes.fromhex(v["ed25519_key"]))
    members = f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'
    same(unpadded(sha256(members.encode())), v["thumbprint"], "thumbprint")
    mac = hmac.new(v["secret"].encode(), b"wx/key/v1", hashlib.sha256)
    same(mac.hexdigest()[:8], v["secret_key_id"], "secret's key id")


def token(v: dict[str, str]) -> None:
    body = unpadded(sha256(v["value"].encode()))
    same(json.loads(v["claims"])["wx"]["body_s256"], body, "body_s256")
    for name in ("hs256", "eddsa"):
        signing_input, _, signature = v[name].rpartition(".")
        claims = from_unpadded(signing_input.partition(".")[2])
        same(claims.decode(), v["claims"], f"{name} claims")
        if name == "hs256":
            mac = hmac.new(v["secret"].encode(), signing_input.encode(), hashlib.sha256)
            same(unpadded(mac.digest()), signature, "hs256 signature")
        else:
            signed(
                v["ed25519_key"], from_unpadded(signature), signing_input.encode(), name
            )


def request(v: dict[str, str]) -> None:
    text = json.loads(v["json"])
    said = decode(bytes.fromhex(v["avro"]), "ExecutionRequest.v1")
    same(said["request_id"], text["request_id"], "request_id")
    same("{name}@{version}".format(**said["module"]), text["module"], "module")
    same(said["invocation"]["function"], text["invocation"]["function"], "function")
    args = [{"i32": scalar["value"]} for scalar in said["invocation"]["args"]]
    same(args, text["invocation"]["args"], "arguments")


def result(v: dict[str, str]) -> None:
    text = json.loads(v["json"])
    same(sha256(v["json"].encode()).hex(), v["result_s256"], "result_s256")
    said = decode(bytes.fromhex(v["avro"]), "ExecutionResult.v1")
    for name in ("request_id", "status", "fuel_consumed", "memory_bytes", "engine"):
        same(said[name], text[name], name)
    for name in ("salt", "module_s256"):
        same(said[name].hex(), text[name], name)
    same(said["audit"]["log_id"].hex(), text["audit"]["log_id"], "log_id")
    same([{"i32": s["value"]} for s in said["outputs"]], text["outputs"], "outputs")


def scalars(v: dict[str, str]) -> None:
    codes = {"i32": 0x7F, "i64": 0x7E, "f32": 0x7D, "f64": 0x7C}
    bits = {
        '{"i32": -1}': 0xFFFFFFFF,
        '{"i64": "9223372036854775807"}': (1 << 63) - 1,
        '{"f32": 1.5}': 0x3FC00000,
        '{"f64": -0.25}': 0xBFD0000000000000,
        '{"f64": "0x8000000000000000"}': 1 << 63,
        '{"f32": "0x7fc00000"}': 0x7FC00000,
    }
    same(set(v), set(bits), "scalars")
    for text, packed in v.items():
        (kind,) = json.loads(text)
        value = bytes([codes[kind]]) + bits[text].to_bytes(8, "little")
        same(value.hex(), packed, text)


def module(v: dict[str, str]) -> None:
    said = decode(bytes.fromhex(v["value"]), "Module.v1")
    same(said["module"].hex(), v["module"], "module")
    same(sha256(said["module"]).hex(), v["record_key"], "record key")


def context(v: dict[str, str]) -> None:
    ids = v["key_ids"].split(" ")
    same(ids, sorted(ids), "order")
    same(sha256("".join(f"{i}\n" for i in ids).encode()).hex(), v["keys_s256"], "keys")
    same(sha256(b"").hex(), v["policy_s256 without a policy"], "policy")


CHECKS = {
    "schema-headers": schema_headers,
    "schema-digests": schema_digests,
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


def main() -> int:
    vectors = json.loads((FOLDER / "wire.json").read_text())
    same(set(vectors), set(CHECKS), "vectors")
    for name, check in CHECKS.items():
        check(vectors[name])
        sys.stdout.write(f"ok {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
