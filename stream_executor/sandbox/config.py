"""The sandbox's configuration as one frozen value; where it comes from is not here."""

from __future__ import annotations

import msgspec

from stream_executor.sandbox.engine import DEFAULT_STACK_BYTES

MIB = 1024 * 1024


class SandboxConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a ``SandboxPool`` is built with.

    Attributes:
        children: guests that run at the same time; one more process is kept warm.
        max_stack_bytes: a guest's call stack, for the whole engine (8 KiB to 2 MiB).
        max_module_bytes: longest module that is compiled at all (the hard ceiling;
            a requester's own limit is decided before).
        child_data_bytes: RLIMIT_DATA of a child: interpreter, compiled modules, and
            one guest's memory.
        child_modules, child_modules_bytes: compiled modules that a child keeps.
        compilers: modules compiled at the same time, one an issuer.
        compile_wall_s, compile_cpu_s, compile_data_bytes: limits of one compilation
            (CPython: 7 to 19 s of CPU, 350 MB; Ruby: 31 s, 1.4 GB); small modules get
            a quarter of the wall clock, which stands while there is no CPU for it.
        max_artefact_bytes: largest compiled module.
        artefact_cache_bytes: compiled modules that the parent keeps for children.
        require_hardening: refuse to start where the kernel lacks a mechanism.
        uid, gid: whom children become when root; None is nobody.
        grace_ms: how long after its deadline a job's process is killed; the child's
            own interrupt comes before.
        start_timeout_s: a child that has not said hello by then is killed.
    """

    children: int = 2
    max_stack_bytes: int = DEFAULT_STACK_BYTES
    max_module_bytes: int = 64 * MIB
    child_data_bytes: int = 2048 * MIB
    child_modules: int = 64
    child_modules_bytes: int = 512 * MIB
    compilers: int = 2
    compile_wall_s: float = 120.0
    compile_cpu_s: int = 60
    compile_data_bytes: int = 2048 * MIB
    max_artefact_bytes: int = 512 * MIB
    artefact_cache_bytes: int = 512 * MIB
    require_hardening: bool = False
    uid: int | None = None
    gid: int | None = None
    grace_ms: int = 250
    start_timeout_s: float = 30.0
