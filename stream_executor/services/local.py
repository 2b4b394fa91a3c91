"""Run a request here and now, without Kafka: the same sandbox, the same result.

For ``invoke`` and for users' own tests. What Kafka and the audit would have said is
left at zero: the place is ``local/0/0``, the log id and seq are zero, no salt.
"""

from __future__ import annotations

import time
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from stream_executor.auth.policy import PolicyGrant
from stream_executor.lane.admission import effective_limits, job_of
from stream_executor.lane.conclusion import ResultPlace, result_of
from stream_executor.model.errors import MisuseError
from stream_executor.model.job import Limits
from stream_executor.model.request import InlineModule
from stream_executor.sandbox.config import SandboxConfig
from stream_executor.sandbox.local import run_once
from stream_executor.wire.requests import encode_json

if TYPE_CHECKING:
    from stream_executor.model.request import ExecutionRequest
    from stream_executor.model.result import ExecutionResult

TOPIC = "local"
_LOG_ID = bytes(16)


class LocalLimits(msgspec.Struct, frozen=True):
    """The ceilings of a local run; the service's defaults.

    Attributes:
        limits: fuel, memory, deadline.
        output_bytes: most output that is kept.
        stack_bytes: a guest's call stack.
    """

    limits: Limits = Limits(5_000_000, 67_108_864, 5_000)
    output_bytes: int = 524_288
    stack_bytes: int = 1_048_576


def run_local(
    request: ExecutionRequest, module: bytes, ceilings: LocalLimits | None = None
) -> ExecutionResult:
    """Run a request on a module that is at hand, whatever its ``module`` names.

    Args:
        request: what to run.
        module: a WebAssembly binary of any size the sandbox takes.
        ceilings: the defaults if None.

    Raises:
        ConfigError: the sandbox does not start on this machine.
    """
    ceilings = ceilings or LocalLimits()
    s256 = sha256(module).digest()
    # The seed is of the request's bytes; an inline module would only repeat s256.
    seeding = msgspec.structs.replace(request, module=InlineModule(b""))
    limits = effective_limits(ceilings.limits, request, PolicyGrant())
    now_ms = time.time_ns() // 1_000_000
    job = job_of(
        request, s256, limits, ceilings.output_bytes, now_ms, encode_json(seeding)
    )
    config = SandboxConfig(children=1, max_stack_bytes=ceilings.stack_bytes)
    reports = run_once([module], [job], config)
    if not reports:
        raise MisuseError("the sandbox gave no report")
    report = reports[0]
    place = ResultPlace(TOPIC, 0, 0, request.request_id, None, _LOG_ID, 0, None)
    return result_of(place, job, report)
