"""What a request gave, for people: a view of one ``ExecutionResult``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from stream_executor.client.errors import ExecutionError
from stream_executor.client.values import Scalar, unpack_typed, unpack_values
from stream_executor.model.job import InvocationKind
from stream_executor.wire.results import encode_json

if TYPE_CHECKING:
    from stream_executor.model.result import ExecutionResult


class Result:
    """The one terminal answer to a request.

    ``record`` holds everything (see ``ExecutionResult``); here is what needs a word or
    is asked for most.

    Attributes:
        record: the record as it was published.
    """

    __slots__ = ("record",)

    def __init__(self, record: ExecutionResult) -> None:
        self.record = record

    @property
    def ok(self) -> bool:
        """Whether the execution succeeded."""
        return self.record.code is None

    @property
    def status(self) -> str:
        """SUCCEEDED, FAILED, REJECTED, EXPIRED or QUARANTINED."""
        return self.record.status

    @property
    def code(self) -> str | None:
        """Why not, None on success; ``wasm-executor explain CODE`` says more."""
        return self.record.code

    @property
    def message(self) -> str:
        """Safe text that goes with ``code``; empty on success."""
        return self.record.message

    @property
    def trap(self) -> str | None:
        """The kind of trap if ``code`` is ``trap``."""
        return self.record.trap

    @property
    def request_id(self) -> str | None:
        """The requester's id, None where no token vouched for the body."""
        return self.record.request_id

    @property
    def position(self) -> str:
        """The request record, ``topic/partition/offset``."""
        record = self.record
        return f"{record.topic}/{record.partition}/{record.offset}"

    @property
    def outputs(self) -> list[int | float]:
        """What a call returned, in order; empty for other kinds and failures."""
        if self.record.kind != InvocationKind.CALL:
            return []
        return unpack_values(self.record.output)

    @property
    def typed_outputs(self) -> list[Scalar]:
        """``outputs`` with their WebAssembly types."""
        if self.record.kind != InvocationKind.CALL:
            return []
        return unpack_typed(self.record.output)

    @property
    def value(self) -> int | float | None:
        """The first output, None if there is none."""
        outputs = self.outputs
        return outputs[0] if outputs else None

    @property
    def output(self) -> bytes:
        """What a bytes module gave; empty for other kinds and failures."""
        return self._bytes_of(InvocationKind.BYTES)

    @property
    def stdout(self) -> bytes:
        """Standard output of a WASI command, also of one that failed."""
        return self._bytes_of(InvocationKind.WASI)

    @property
    def stderr(self) -> bytes:
        """Standard error of a WASI command."""
        return self.record.stderr

    @property
    def exit_code(self) -> int | None:
        """Exit code of a WASI command, None if it trapped."""
        return self.record.exit_code

    @property
    def fuel_consumed(self) -> int:
        """Fuel units; a lower bound where ``record.fuel_exact`` is False."""
        return self.record.fuel_consumed

    @property
    def duration_s(self) -> float:
        """Seconds in the sandbox."""
        return self.record.duration_us / 1e6

    def raise_for_status(self) -> Self:
        """Give this result back if it succeeded.

        Raises:
            ExecutionError: it did not.
        """
        if not self.ok:
            raise ExecutionError(self)
        return self

    def to_json(self) -> bytes:
        """Give the record's JSON form (docs/wire-format.md)."""
        return encode_json(self.record)

    def _bytes_of(self, kind: InvocationKind) -> bytes:
        return self.record.output if self.record.kind == kind else b""

    def __repr__(self) -> str:
        shown = f"Result({self.position} {self.status}"
        if self.code is not None:
            return f"{shown} {self.code})"
        return f"{shown} {self.outputs})" if self.outputs else f"{shown})"
