"""The engine: one tested configuration, its digest, and the engine built from it.

Settings never come from users: an inconsistent set ends the process inside the
native library, and artefacts and results depend on each of them. The one parameter
is the guest's stack, which an operator sets for the whole engine.

Not here: limits of one execution (``guest``) and of a process (``harden``).

Source: the settings validated over the specification's test suite and real guests;
wasmtime 50 ``Config`` and ``PoolingAllocationConfig``.
"""

from __future__ import annotations

import ctypes
import hashlib
from importlib.metadata import version

from stream_executor.model.errors import ConfigError
from stream_executor.sandbox.native import Native, library_path

MIN_STACK_BYTES = 8 * 1024
MAX_STACK_BYTES = 2 * 1024 * 1024  # more aborts the process: async_stack_size
DEFAULT_STACK_BYTES = 1024 * 1024

WASM_PAGE_BYTES = 65536
MAX_TABLE_ELEMENTS = 100_000
MAX_TABLES = 8
MAX_WASM32_MEMORY_BYTES = 4 * 1024 * 1024 * 1024

ENGINE_SETTINGS: tuple[tuple[str, int], ...] = (
    ("consume_fuel", 1),
    ("epoch_interruption", 1),
    # NaN bits and relaxed SIMD must not depend on the CPU: results are re-executed.
    ("cranelift_nan_canonicalization", 1),
    ("wasm_relaxed_simd_deterministic", 1),
    # Each of these multiplies memory, leaves the fuel's reach, or aborts on a type.
    ("wasm_multi_memory", 0),
    ("wasm_memory64", 0),
    ("wasm_threads", 0),
    ("shared_memory", 0),
    ("wasm_gc", 0),
    ("wasm_function_references", 0),
    ("wasm_wide_arithmetic", 0),
    ("wasm_custom_page_sizes", 0),
    ("wasm_stack_switching", 0),
    ("wasm_component_model", 0),
    # A copy-on-write image is a memfd, and memfds are memory outside RLIMIT_DATA;
    # without it a child needs neither memfd_create nor a file size limit above 0, and
    # fuel cannot depend on whether the kernel gave one (ADR 0031).
    ("memory_init_cow", 0),
)

POOL_SETTINGS: tuple[tuple[str, int], ...] = (
    # One guest at a time runs in a process; a second place for the next store.
    ("total_core_instances", 2),
    ("total_memories", 2),
    ("total_tables", 2 * MAX_TABLES),
    ("total_gc_heaps", 2),  # exceptions live there
    # No async stacks: the default of 1,000 counts 2 GiB against RLIMIT_DATA.
    ("total_stacks", 0),
    ("total_component_instances", 0),
    ("max_memories_per_module", 1),
    ("max_tables_per_module", MAX_TABLES),
    ("table_elements", MAX_TABLE_ELEMENTS),
    # The store's limit decides; the pool must merely not refuse a granted module.
    ("max_memory_size", MAX_WASM32_MEMORY_BYTES),
    ("max_core_instance_size", 16 * 1024 * 1024),
    ("max_unused_warm_slots", 2),
    # Cleared by memset instead of madvise: 8.7 µs instead of 14 with two pages.
    ("linear_memory_keep_resident", 128 * 1024),
    ("table_keep_resident", 64 * 1024),
)
_SIZE_ARGUMENTS = frozenset(
    {
        "max_memory_size",
        "table_elements",
        "max_core_instance_size",
        "linear_memory_keep_resident",
        "table_keep_resident",
    }
)


def config_text(max_stack_bytes: int = DEFAULT_STACK_BYTES) -> str:
    """Give the canonical text of the configuration: sorted ``name=value`` lines."""
    lines = [f"{name}={value}" for name, value in ENGINE_SETTINGS]
    lines += [f"pool.{name}={value}" for name, value in POOL_SETTINGS]
    lines.append(f"max_wasm_stack={max_stack_bytes}")
    return "".join(line + "\n" for line in sorted(lines))


def config_s256(max_stack_bytes: int = DEFAULT_STACK_BYTES) -> bytes:
    """Give the SHA-256 of ``config_text``, which audit records and caches carry."""
    return hashlib.sha256(config_text(max_stack_bytes).encode()).digest()


def engine_identity() -> str:
    """Name the native engine: wheel version and digest of the library's bytes.

    The wheel's number alone would lie: 50.0.1 carries the library of 50.0.0.
    Blocking: reads 30 MB.

    Raises:
        ConfigError: wasmtime is not installed for this machine.
    """
    digest = hashlib.sha256(library_path().read_bytes()).hexdigest()
    return f"wasmtime-py/{version('wasmtime')} native/{digest[:32]}"


def validate_stack_bytes(max_stack_bytes: int) -> int:
    """Give the value back if the engine can take it.

    Raises:
        ConfigError: outside 8 KiB to 2 MiB, where the engine would abort.
    """
    if MIN_STACK_BYTES <= max_stack_bytes <= MAX_STACK_BYTES:
        return max_stack_bytes
    raise ConfigError(
        f"MAX_STACK_BYTES is {max_stack_bytes}; the engine takes "
        f"{MIN_STACK_BYTES} to {MAX_STACK_BYTES}"
    )


class Engine:
    """A native engine with the pooling allocator.

    Attributes:
        address: the ``wasm_engine_t``; valid as long as this object lives.

    Args:
        parallel: compile with threads; no part of the configuration's digest, since
            it changes no byte of an artefact.

    Raises:
        ConfigError: the stack is out of range or the engine refuses to start.
    """

    def __init__(
        self, native: Native, max_stack_bytes: int, *, parallel: bool = False
    ) -> None:
        validate_stack_bytes(max_stack_bytes)
        self.native = native
        quick = native.quick
        config = quick.config_new()
        pool = quick.pooling_allocation_config_new()
        if config is None or pool is None:
            raise ConfigError("the native wasmtime gives no configuration")
        for name, value in (
            *ENGINE_SETTINGS,
            ("parallel_compilation", int(parallel)),
        ):
            set_flag = quick.setting(f"wasmtime_config_{name}_set", ctypes.c_bool)
            set_flag(config, value)
        set_stack = quick.setting("wasmtime_config_max_wasm_stack_set", ctypes.c_size_t)
        set_stack(config, max_stack_bytes)
        for name, value in POOL_SETTINGS:
            argument = ctypes.c_size_t if name in _SIZE_ARGUMENTS else ctypes.c_uint32
            setter = f"wasmtime_pooling_allocation_config_{name}_set"
            quick.setting(setter, argument)(pool, value)
        quick.pooling_allocation_strategy_set(config, pool)
        quick.pooling_allocation_config_delete(pool)
        address = quick.engine_new_with_config(config)
        if address is None:
            raise ConfigError("the native wasmtime refuses the engine configuration")
        self.address: int = address

    def __del__(self) -> None:
        address = getattr(self, "address", None)
        if address is not None:
            self.native.quick.engine_delete(address)
