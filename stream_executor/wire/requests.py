"""ExecutionRequest: record value bytes ⇄ ``model.request``.

The first signed byte chooses the form: ``C3 01`` is single-object Avro, ``{`` is
JSON, anything else is no request. Headers have no say: they are not signed. Both
forms refuse what is unknown, repeated or trailing, so that two readers can never
see two requests in the same signed bytes.

Source: docs/wire-format.md. Not here: whether the request may run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream_executor.model.errors import MalformedError
from stream_executor.wire.request_avro import SCHEMA, decode_avro, encode_avro
from stream_executor.wire.request_json import decode_json, encode_json
from stream_executor.wire.request_rules import (
    ModuleTooLargeError,
    parse_module_name,
    validate,
)
from stream_executor.wire.schemas import HEADER_BYTES, header

if TYPE_CHECKING:
    from stream_executor.model.request import ExecutionRequest

__all__ = [
    "ModuleTooLargeError",
    "decode_request",
    "encode_avro",
    "encode_json",
    "parse_module_name",
    "request_id_of",
]


def decode_request(value: bytes) -> ExecutionRequest:
    """Decode a request record's value.

    Raises:
        MalformedError: the value is no valid request (``invalid_request``).
        ModuleTooLargeError: its inline module is too large (``module_too_large``).
    """
    if value[:1] == b"{":
        request = decode_json(value)
    elif value[:HEADER_BYTES] == header(SCHEMA):
        request = decode_avro(value)
    else:
        message = (
            f"a request begins with '{{' or {header(SCHEMA).hex()}, "
            f"this value with {value[:HEADER_BYTES].hex() or 'nothing'}"
        )
        raise MalformedError(message)
    validate(request)
    return request


def request_id_of(value: bytes) -> str | None:
    """Give the request id of a value that will not run, if it decodes at all."""
    try:
        return decode_request(value).request_id
    except MalformedError:
        return None
