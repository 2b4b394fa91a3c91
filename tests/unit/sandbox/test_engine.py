"""The configuration's digest is a contract: results and artefacts depend on it."""

from __future__ import annotations

import hashlib

import pytest

from stream_executor.model.errors import ConfigError
from stream_executor.sandbox import engine


def test_the_text_is_sorted_lines_with_the_stack() -> None:
    lines = engine.config_text(65536).splitlines()
    assert lines == sorted(lines)
    assert "max_wasm_stack=65536" in lines
    assert "consume_fuel=1" in lines
    assert len(lines) == len(engine.ENGINE_SETTINGS) + len(engine.POOL_SETTINGS) + 1


def test_the_digest_is_of_the_text_and_moves_with_the_stack() -> None:
    text = engine.config_text().encode()
    assert engine.config_s256() == hashlib.sha256(text).digest()
    assert engine.config_s256(8192) != engine.config_s256()


@pytest.mark.parametrize("stack", [-1, 0, 8191, 2 * 1024 * 1024 + 1])
def test_a_stack_that_aborts_the_engine_is_refused_before(stack: int) -> None:
    with pytest.raises(ConfigError):
        engine.validate_stack_bytes(stack)


def test_the_identity_names_the_native_library() -> None:
    identity = engine.engine_identity()
    assert identity.startswith("wasmtime-py/")
    assert len(identity.partition("native/")[2]) == 32
