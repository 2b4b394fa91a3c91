"""The bytes of docs/wire-format.md: code, document and an independent reader agree."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stream_executor.audit.findings import MEANINGS
from stream_executor.audit.segments import link_of
from stream_executor.model.control import DenySubject, KeyPurpose
from stream_executor.model.job import InvocationKind
from stream_executor.wire.avro import KINDS, decode
from stream_executor.wire.modules import decode_module
from stream_executor.wire.requests import decode_request
from stream_executor.wire.results import decode_result
from stream_executor.wire.schemas import schema_texts

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests" / "vectors"
DOCUMENT = (ROOT / "docs" / "wire-format.md").read_text(encoding="utf-8")
WIRE: dict[str, dict[str, str]] = json.loads((VECTORS / "wire.json").read_text())


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen", VECTORS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_code_gives_the_vectors(generator: ModuleType) -> None:
    assert generator.vectors() == WIRE


def test_a_reader_without_our_code_agrees() -> None:
    """It follows the document, with hashlib and cryptography alone."""
    program = VECTORS / "verify_independently.py"
    assert "stream_executor" not in program.read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-I", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(WIRE)


def examples() -> dict[str, dict[str, str]]:
    """Read every example out of the document."""
    found: dict[str, dict[str, str]] = {}
    pattern = r"<!-- vector: (\S+) -->\n```text\n(.*?)```"
    for name, block in re.findall(pattern, DOCUMENT, re.DOTALL):
        example: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line.startswith("    "):
                example[key] += line[4:]
            else:
                key, _, value = line.partition(" =")
                example[key] = value.removeprefix(" ")
        found[name] = {k: v.replace("\\n", "\n") for k, v in example.items()}
    return found


def test_the_documents_examples_are_the_vectors() -> None:
    shown = examples()
    assert set(shown) == set(WIRE) - {"schema-digests"}
    for name, example in shown.items():
        assert example == WIRE[name], name


@pytest.mark.parametrize(
    ("vector", "field"),
    [
        ("leaf", "value"),
        ("genesis", "value"),
        ("seal", "value"),
        ("refusal", "value"),
        ("control", "genesis"),
        ("control", "enrolment"),
    ],
)
def test_old_values_are_read(vector: str, field: str) -> None:
    value = bytes.fromhex(WIRE[vector][field])
    leaf: Any = decode(value)
    first = leaf.seq if hasattr(leaf, "seq") else leaf.serial
    assert link_of(value) == (first, leaf.prev)


def test_both_forms_of_request_and_result_mean_the_same() -> None:
    request, result = WIRE["request"], WIRE["result"]
    assert decode_request(request["json"].encode()) == decode_request(
        bytes.fromhex(request["avro"])
    )
    assert decode_result(result["json"].encode()) == decode_result(
        bytes.fromhex(result["avro"])
    )
    module = WIRE["module"]
    assert decode_module(bytes.fromhex(module["value"])).hex() == module["module"]


def rows(heading: str) -> list[list[str]]:
    """Give the rows of the table under a heading."""
    text = DOCUMENT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_enum_symbols_are_the_schemas() -> None:
    enums: dict[str, list[str]] = {}

    def learn(schema: Any) -> None:
        if isinstance(schema, list):
            for item in schema:
                learn(item)
        elif isinstance(schema, dict):
            if schema.get("type") == "enum":
                enums[schema["name"]] = schema["symbols"]
            for item in schema.values():
                learn(item)

    for text in schema_texts().values():
        learn(json.loads(text))
    written = {name.strip("`"): cell.split(", ") for name, cell in rows("Enum symbols")}
    assert {name: enums[name] for name in written} == written
    assert set(written) == {name for name in enums if name != "TrapKind"}
    for enum in (InvocationKind, KeyPurpose, DenySubject):
        assert [member.name for member in enum] == enums[enum.__name__]


def test_findings_are_those_of_the_verifier() -> None:
    written = dict(rows("What verification finds"))
    assert written == {f"`{code}`": meaning for code, meaning in MEANINGS.items()}


def test_kinds_are_those_of_the_code() -> None:
    leaves = {row[0].strip("`") for row in rows("Leaves")}
    control = {row[0].strip("`") for row in rows("Control chain")}
    assert leaves | control == set(KINDS.values())
    assert {row[1].strip("`") for row in rows("Leaves")} == {
        f"{cls.__name__}.v1" for cls, kind in KINDS.items() if kind in leaves
    }
