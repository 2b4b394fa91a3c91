"""A signed request may be hostile in its shape: arrays are counted before decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_executor.model.errors import MalformedError
from stream_executor.model.request import (
    Bytes,
    Call,
    ExecutionRequest,
    InlineModule,
    ModuleDigest,
    ModuleName,
    Wasi,
)
from stream_executor.model.scalars import ValueType, pack_value
from stream_executor.wire import request_avro, request_json
from stream_executor.wire.request_rules import MAX_ARGUMENTS, MAX_ENTRIES
from stream_executor.wire.requests import decode_request, encode_avro, encode_json

if TYPE_CHECKING:
    from collections.abc import Callable

ADD = ModuleName("add", "1")
ONE = pack_value(ValueType.I32, 1)


def call(count: int) -> ExecutionRequest:
    return ExecutionRequest("r", ADD, Call("f", ONE * count), None, None)


def command(*, args: int = 0, env: int = 0, files: int = 0) -> ExecutionRequest:
    asked = Wasi(
        ("",) * args,
        tuple((f"n{at}", "") for at in range(env)),
        b"",
        tuple((f"/{at}", b"") for at in range(files)),
    )
    return ExecutionRequest("r", ADD, asked, None, None)


@pytest.mark.parametrize("encode", [encode_json, encode_avro])
@pytest.mark.parametrize(
    "asked",
    [
        call(MAX_ARGUMENTS),
        command(args=MAX_ENTRIES, env=MAX_ENTRIES, files=MAX_ENTRIES),
    ],
    ids=["call", "command"],
)
def test_as_many_as_are_allowed_are_read(
    encode: Callable[[ExecutionRequest], bytes], asked: ExecutionRequest
) -> None:
    assert decode_request(encode(asked)) == asked


@pytest.mark.parametrize("encode", [encode_json, encode_avro])
@pytest.mark.parametrize(
    "asked",
    [
        call(MAX_ARGUMENTS + 1),
        command(args=MAX_ENTRIES + 1),
        command(env=MAX_ENTRIES + 1),
    ],
    ids=["call", "args", "env"],
)
def test_one_more_is_refused(
    encode: Callable[[ExecutionRequest], bytes], asked: ExecutionRequest
) -> None:
    with pytest.raises(MalformedError, match="at most"):
        decode_request(encode(asked))


@pytest.mark.threat("T-25")
@pytest.mark.parametrize("encode", [encode_json, encode_avro])
@pytest.mark.parametrize(
    "asked",
    [
        call(100_000),
        command(args=100_000),
        command(env=100_000),
        command(files=100_000),
    ],
    ids=["arguments", "args", "env", "files"],
)
def test_a_flood_of_items_is_refused_before_an_object_is_made_of_each(
    encode: Callable[[ExecutionRequest], bytes],
    asked: ExecutionRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The costly steps behind the count are replaced by ones that must not run."""

    def reached(*_: object, **__: object) -> None:
        pytest.fail("the items were decoded")

    value = encode(asked)
    monkeypatch.setattr(request_avro, "schemaless_reader", reached)
    monkeypatch.setattr(request_json, "pack_scalars", reached)
    monkeypatch.setattr(request_json, "_refuse_duplicate_names", reached)
    with pytest.raises(MalformedError, match="at most"):
        decode_request(value)


def test_a_flood_in_many_small_blocks_is_counted_as_one() -> None:
    begun = encode_avro(call(0))[:-3]  # no arguments yet, no limits, no not_after
    block = b"\x02\x00\x02"  # one item: an i32
    with pytest.raises(MalformedError, match="at most"):
        decode_request(begun + block * 100_000)


modules = st.one_of(
    st.just(ADD),
    st.binary(min_size=32, max_size=32).map(ModuleDigest),
    st.binary(max_size=6_000).map(InlineModule),
)
invocations = st.one_of(
    st.integers(0, MAX_ARGUMENTS).map(lambda n: Call("f", ONE * n)),
    st.binary(max_size=6_000).map(Bytes),
    st.builds(
        lambda args, stdin: Wasi(tuple(args), (("a", "b"),), stdin, (("/f", stdin),)),
        st.lists(st.text("ab", max_size=40), max_size=MAX_ENTRIES),
        st.binary(max_size=6_000),
    ),
)


@given(modules, invocations)
def test_no_request_is_too_large_for_the_walk(
    module: ModuleName | ModuleDigest | InlineModule, invocation: Call | Bytes | Wasi
) -> None:
    asked = ExecutionRequest("r", module, invocation, None, 1)
    assert decode_request(encode_avro(asked)) == asked


@given(st.binary(max_size=200), st.integers(0, 255))
def test_any_bytes_behind_the_header_are_a_request_or_malformed(
    begun: bytes, filling: int
) -> None:
    header = encode_avro(call(0))[:10]
    try:
        decode_request(header + begun + bytes((filling,)) * 4_200)
    except MalformedError:
        return
