"""Record batches built by hand, so that parsers are not tested with themselves."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from aiokafka.record.util import calc_crc32c


class Bytes:
    """Builds records and batches of format v2 (KIP-98), well-formed or not."""

    @staticmethod
    def varint(number: int) -> bytes:
        rest = (number << 1) ^ (number >> 63)
        out = bytearray()
        while rest >= 0x80:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
        return bytes(out)

    def field(self, data: bytes | None) -> bytes:
        return self.varint(-1) if data is None else self.varint(len(data)) + data

    def record(
        self,
        delta: int,
        value: bytes | None = b"v",
        headers: tuple[tuple[bytes | None, bytes | None], ...] = (),
        key: bytes | None = None,
        tail: bytes = b"",
        count: int | None = None,
        time: int = 0,
    ) -> bytes:
        body = b"\0" + self.varint(time) + self.varint(delta)
        body += self.field(key) + self.field(value)
        body += self.varint(len(headers) if count is None else count)
        for name, content in headers:
            body += self.field(name) + self.field(content)
        return self.varint(len(body) + len(tail)) + body + tail

    def marker(self, kind: int) -> bytes:
        return self.record(0, struct.pack(">hi", 0, 0), key=struct.pack(">hh", 0, kind))

    def batch(
        self,
        base: int,
        records: list[bytes] | bytes,
        *,
        count: int | None = None,
        last: int | None = None,
        attributes: int = 0x08,
        pid: int = -1,
        magic: int = 2,
        crc: int | None = None,
        first_time: int = 1_000,
        max_time: int = 2_000,
    ) -> bytes:
        payload = records if isinstance(records, bytes) else b"".join(records)
        if count is None:
            count = len(records) if isinstance(records, list) else 1
        checked = (
            struct.pack(
                ">hiqqqhii",
                attributes,
                count - 1 if last is None else last,
                first_time,
                max_time,
                pid,
                0,
                0,
                count,
            )
            + payload
        )
        crc = calc_crc32c(checked) if crc is None else crc
        return struct.pack(">qiibI", base, len(checked) + 9, 0, magic, crc) + checked

    def transactional(self, base: int, pid: int, count: int = 1, **more: Any) -> bytes:
        records = [self.record(index) for index in range(count)]
        return self.batch(base, records, attributes=0x18, pid=pid, **more)

    def control(self, base: int, pid: int, kind: int) -> bytes:
        return self.batch(base, [self.marker(kind)], attributes=0x38, pid=pid)


@pytest.fixture(scope="session")
def build() -> Bytes:
    return Bytes()
