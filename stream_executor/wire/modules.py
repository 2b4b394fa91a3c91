"""Module.v1: a module's bytes ⇄ the modules topic's record value.

The value is the schema's ten-byte header and one Avro ``bytes`` field; nothing may
follow. Whether the bytes are the published ones is decided in ``modules.store``.
"""

from __future__ import annotations

import io
from typing import cast

from fastavro import schemaless_reader, schemaless_writer

from stream_executor.model.errors import MalformedError
from stream_executor.wire.schemas import HEADER_BYTES, header, parsed_schema

_SCHEMA = "Module.v1"


def encode_module(module: bytes) -> bytes:
    """Give the record value that holds these module bytes."""
    out = io.BytesIO()
    out.write(header(_SCHEMA))
    schemaless_writer(out, parsed_schema(_SCHEMA), {"module": module})
    return out.getvalue()


def decode_module(value: bytes) -> bytes:
    """Give the module bytes that a record value holds.

    Raises:
        MalformedError: not this schema, or not its one encoding.
    """
    if value[:HEADER_BYTES] != header(_SCHEMA):
        message = f"not a {_SCHEMA} value: it begins {value[:HEADER_BYTES].hex()}"
        raise MalformedError(message)
    try:
        plain = schemaless_reader(
            io.BytesIO(value[HEADER_BYTES:]), parsed_schema(_SCHEMA)
        )
        module: bytes = cast("dict[str, bytes]", plain)["module"]
    except Exception as error:  # fastavro raises whatever its parts raise
        message = f"not a decodable {_SCHEMA} value of {len(value)} bytes"
        raise MalformedError(message) from error
    if encode_module(module) != value:
        message = f"not the canonical encoding of a {_SCHEMA} value"
        raise MalformedError(message)
    return module
