"""Module bytes are fetched once, believed by digest, and forgotten by size."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from hashlib import sha256

import pytest

from stream_executor.model.errors import (
    IntegrityError,
    MalformedError,
    UnavailableError,
)
from stream_executor.model.record import PlainRecord, Record
from stream_executor.model.request import ModuleName
from stream_executor.modules.store import ModuleStore
from stream_executor.modules.view import PublishedModule
from stream_executor.wire.modules import decode_module, encode_module
from tests.audit_logs import Control


@dataclass
class Topic:
    values: list[bytes | None] = field(default_factory=list)
    reads: int = 0
    away: bool = False

    async def read_one(self, topic: str, partition: int, offset: int) -> Record | None:
        assert (topic, partition) == ("wasm.modules", 0)
        self.reads += 1
        await asyncio.sleep(0)
        if self.away:
            message = "the broker went away"
            raise UnavailableError(message)
        if offset >= len(self.values):
            return None
        return PlainRecord(offset, 1, self.values[offset])


def module(offset: int, wasm: bytes = b"\0asm") -> PublishedModule:
    s256 = sha256(wasm).digest()
    return PublishedModule(s256, None, len(wasm), offset, None, False, 1)


def store(topic: Topic, **more: int) -> ModuleStore:
    return ModuleStore(Control().view, topic, "wasm.modules", 1_000, **more)


async def test_bytes_are_fetched_once_and_believed_by_digest() -> None:
    topic = Topic([encode_module(b"\0asm")])
    kept = store(topic)
    assert kept.cached(module(0).s256) is None
    assert await kept.fetch(module(0)) == b"\0asm"
    assert await kept.fetch(module(0)) == b"\0asm"
    assert kept.cached(module(0).s256) == b"\0asm"
    assert topic.reads == 1


async def test_callers_at_the_same_time_share_one_fetch() -> None:
    topic = Topic([encode_module(b"\0asm")])
    kept = store(topic)
    assert (
        await asyncio.gather(*[kept.fetch(module(0)) for _ in range(5)])
        == [b"\0asm"] * 5
    )
    assert topic.reads == 1


async def test_a_cancelled_caller_takes_nothing_from_the_others() -> None:
    topic = Topic([encode_module(b"\0asm")])
    kept = store(topic)
    impatient = asyncio.create_task(kept.fetch(module(0)))
    patient = asyncio.create_task(kept.fetch(module(0)))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient == b"\0asm"
    assert topic.reads == 1


async def test_a_failed_fetch_is_tried_anew() -> None:
    topic = Topic([encode_module(b"\0asm")], away=True)
    kept = store(topic)
    with pytest.raises(UnavailableError):
        await kept.fetch(module(0))
    topic.away = False
    assert await kept.fetch(module(0)) == b"\0asm"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (encode_module(b"\0wat"), "expected module"),
        (encode_module(b"\0asm") + b"\0", "no module in wasm.modules-0 at 0"),
        (b"garbage", "no module in wasm.modules-0 at 0"),
        (None, "deleted or never written"),
    ],
)
async def test_what_is_not_the_published_module_is_an_integrity_error(
    value: bytes | None, complaint: str
) -> None:
    topic = Topic([value])
    kept = store(topic)
    with pytest.raises(IntegrityError, match=complaint):
        await kept.fetch(module(0))
    assert kept.cached(module(0).s256) is None


async def test_an_offset_without_a_record_is_an_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="deleted or never written"):
        await store(Topic()).fetch(module(3))


async def test_a_module_above_the_cap_is_not_even_fetched() -> None:
    topic = Topic([encode_module(bytes(1_001))])
    with pytest.raises(IntegrityError, match="above the maximum of 1000"):
        await store(topic).fetch(module(0, bytes(1_001)))
    assert topic.reads == 0


async def test_the_least_recently_used_are_forgotten() -> None:
    wasms = [bytes([n]) * 40 for n in range(3)]
    topic = Topic([encode_module(w) for w in wasms])
    kept = store(topic, cache_bytes=100)
    first, second, third = (module(n, w) for n, w in enumerate(wasms))
    await kept.fetch(first)
    await kept.fetch(second)
    kept.cached(first.s256)
    await kept.fetch(third)
    held = [kept.cached(m.s256) is not None for m in (first, second, third)]
    assert held == [True, False, True]


async def test_a_module_larger_than_the_cache_is_given_but_not_kept() -> None:
    topic = Topic([encode_module(bytes(200))])
    kept = store(topic, cache_bytes=100)
    assert await kept.fetch(module(0, bytes(200))) == bytes(200)
    assert kept.cached(module(0, bytes(200)).s256) is None


async def test_bytes_are_found_by_digest_if_they_were_ever_published() -> None:
    control = Control()
    wasm = b"\0asm"
    control.add(
        control.administrator.publish(
            ModuleName("add", "1"), sha256(wasm).digest(), len(wasm), 0
        )
    )
    control.add(control.administrator.revoke(sha256(wasm).digest(), "bad"))
    kept = ModuleStore(
        control.view, Topic([encode_module(wasm)]), "wasm.modules", 1_000
    )
    assert await kept.find(sha256(wasm).digest()) == wasm
    assert await kept.find(bytes(32)) is None


@pytest.mark.parametrize("size", [0, 1, 63, 64, 8_191, 8_192, 100_000])
def test_module_values_round_trip(size: int) -> None:
    assert decode_module(encode_module(bytes(size))) == bytes(size)


def test_module_values_have_one_encoding() -> None:
    value = encode_module(b"abc")
    longer = value[:10] + b"\x86\x00" + b"abc"  # the length in two bytes, not one
    for bad in (b"", value[:9], value[:-1], value + b"\0", longer, b"x" + value):
        with pytest.raises(MalformedError):
            decode_module(bad)
