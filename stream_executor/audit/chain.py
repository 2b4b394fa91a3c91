"""The hash chain of one audit partition (and of the control topic).

A leaf is a record's exact value bytes. Its hash is RFC 6962's leaf hash, so the
chain and the Merkle tree over the same leaves speak of the same 32 bytes; the chain
itself takes no part in tree proofs. Nothing here knows what a leaf says.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from stream_executor.model.audit import ZERO32


def leaf_hash(value: bytes) -> bytes:
    """Give SHA-256(0x00 || value). Source: RFC 6962 section 2.1."""
    return sha256(b"\x00" + value).digest()


class ChainHead(msgspec.Struct, frozen=True, gc=False):
    """Where a chain stands.

    Attributes:
        seq: leaf index of the next leaf.
        hash: leaf hash of the last leaf; zero bytes before the first.
    """

    seq: int = 0
    hash: bytes = ZERO32

    def extended(self, value: bytes) -> ChainHead:
        """Give the head after one more leaf of these bytes."""
        return ChainHead(self.seq + 1, leaf_hash(value))
