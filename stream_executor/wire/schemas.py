"""The Avro schemas of ``schemas/``: their text, digests and fingerprints.

The files are the source; nothing here changes them. A value on a topic begins with
``C3 01`` and the CRC-64-AVRO fingerprint of its schema's Parsing Canonical Form in
little-endian order, so bytes name their own schema for as long as they live.

Source: Apache Avro 1.11 specification, "Single-object encoding" and "Schema
fingerprints". Encoding and decoding are in ``wire.avro``.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from fastavro.schema import fingerprint, parse_schema, to_parsing_canonical_form

from stream_executor.model.errors import ConfigError

HEADER_BYTES = 10
_MARKER = b"\xc3\x01"


def _folder() -> Path:
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "schemas", package.parent / "schemas"):
        if folder.is_dir():
            return folder
    message = "the schema files are missing from this installation"
    raise ConfigError(message)


@cache
def schema_texts() -> dict[str, bytes]:
    """Give every schema file's bytes by name (``Seal.v1``), sorted by name."""
    return {
        path.name.removesuffix(".avsc"): path.read_bytes()
        for path in sorted(_folder().glob("*.avsc"))
    }


def schema_digests() -> dict[str, bytes]:
    """Give the SHA-256 of every schema file by name, for ``lane.acquired``."""
    return {n: hashlib.sha256(t).digest() for n, t in schema_texts().items()}


@cache
def raw_schema(name: str) -> dict[str, Any]:
    """Give one schema as parsed JSON."""
    schema: dict[str, Any] = json.loads(schema_texts()[name])
    return schema


@cache
def parsed_schema(name: str) -> Any:
    """Give one schema as fastavro wants it."""
    return parse_schema(raw_schema(name))


@cache
def header(name: str) -> bytes:
    """Give the ten bytes with which a value of this schema begins."""
    canonical = to_parsing_canonical_form(parsed_schema(name))
    # fastavro prints the CRC in wire (little-endian) byte order already.
    return _MARKER + bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))
