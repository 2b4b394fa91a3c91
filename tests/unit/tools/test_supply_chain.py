"""Vulnerabilities are found in the lock alone, without a network (sockets are off)."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from stream_executor.embedded.jars import LOCK as JARS
from tools import supply_chain
from tools.supply_chain import (
    ADVISORIES,
    LOCK,
    Pin,
    applies,
    audit,
    bill,
    exported,
    findings,
    read_lock,
)

if TYPE_CHECKING:
    from pathlib import Path


def advisory(name: str, **affected: Any) -> dict[str, Any]:
    package = {"ecosystem": "PyPI", "name": name}
    return {"id": "X-1", "affected": [{"package": package, **affected}]}


def ranged(*events: tuple[str, str]) -> dict[str, Any]:
    found = [{kind: version} for kind, version in events]
    return advisory("Some_Name", ranges=[{"type": "ECOSYSTEM", "events": found}])


def test_the_lock_has_a_name_a_version_and_hashes_of_everything() -> None:
    pins = read_lock(LOCK.read_text())

    assert len(pins) > 60
    assert all(pin.version and pin.hashes for pin in pins)
    assert {"pyjwt", "wasmtime", "aiokafka"} <= {pin.name for pin in pins}


@pytest.mark.parametrize(
    ("version", "covered"),
    [
        ("0.9", False), ("1.0", True), ("1.9", True), ("2.0", False), ("2.5", False),
        ("3.0", True), ("3.1", True), ("3.1.1", False), ("2.0rc1", True),
    ],
)  # fmt: skip
def test_ranges_mean_what_osv_says(version: str, covered: bool) -> None:  # noqa: FBT001
    record = ranged(
        ("introduced", "1.0"), ("fixed", "2.0"),
        ("introduced", "3.0"), ("last_affected", "3.1"),
    )  # fmt: skip
    assert applies(record, Pin("some-name", version, ())) is covered


def test_listed_versions_count_and_other_ecosystems_do_not() -> None:
    record = advisory("some.name", versions=["1.5"])
    assert applies(record, Pin("some-name", "1.5", ()))
    assert not applies(record, Pin("some-name", "1.6", ()))
    record["affected"][0]["package"]["ecosystem"] = "npm"
    assert not applies(record, Pin("some-name", "1.5", ()))


def test_a_vulnerable_pin_is_found_unless_withdrawn_or_accepted() -> None:
    pins = [Pin("some-name", "1.5", ())]
    record = ranged(("introduced", "0"), ("fixed", "2"))

    (found,) = findings(pins, [record], {})
    assert (found.advisory, found.accepted) == ("X-1", None)
    (found,) = findings(pins, [record], {"X-1": "because"})
    assert found.accepted == "because"
    assert findings(pins, [record | {"withdrawn": "2026-01-01T00:00:00Z"}], {}) == []


def test_todays_lock_has_nothing_to_act_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit([]) == 0
    assert "0 to act on" in capsys.readouterr().out


def test_an_older_lock_would_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.lock"
    old.write_text("pyjwt==2.8.0 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    monkeypatch.setattr(supply_chain, "LOCK", old)

    assert audit([]) == 1
    assert "pyjwt 2.8.0: WX-2026-2" in capsys.readouterr().out


def test_a_mirrors_zip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X-1.json", json.dumps(ranged(("introduced", "0"))))
    assert [record["id"] for record in exported(path)] == ["X-1"]


def test_what_is_accepted_is_known_and_has_a_reason() -> None:
    ours = json.loads(ADVISORIES.read_bytes())
    known = {record["id"] for record in ours["advisories"]}
    assert ours["accepted"].keys() <= known
    assert all(len(reason) > 40 for reason in ours["accepted"].values())


def test_the_bill_holds_every_package_and_every_jar() -> None:
    components = json.loads(bill())["components"]
    purls = {component["purl"] for component in components}
    pins, jars = read_lock(LOCK.read_text()), JARS.read_text().splitlines()

    assert {f"pkg:pypi/{pin.name}@{pin.version}" for pin in pins} <= purls
    assert len(components) == len(pins) + len(jars)
    assert all(component["hashes"] for component in components)
