"""What the locks pin: known vulnerabilities, and a bill of materials.

    python -m tools.supply_chain audit [EXPORT...]    1 if something applies
    python -m tools.supply_chain sbom FILE            CycloneDX 1.6 JSON

Needs no network: advisories are ``advisories.json`` and whatever OSV records are given,
single files or the zip of an ecosystem that OSV publishes and a mirror can carry.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.utils import canonicalize_name
from packaging.version import Version

from stream_executor import __version__
from stream_executor.embedded.jars import LOCK as JARS
from stream_executor.embedded.jars import parse_lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
ADVISORIES = Path(__file__).with_name("advisories.json")
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Pin(NamedTuple):
    """One package of the lock: canonical name, version, SHA-256 of its files."""

    name: str
    version: str
    hashes: tuple[str, ...]


class Finding(NamedTuple):
    """An advisory that applies to a pin; ``accepted`` is why that is borne."""

    pin: Pin
    advisory: str
    summary: str
    accepted: str | None


def read_lock(text: str) -> list[Pin]:
    """Give what a hashed requirements file pins."""
    pins: list[Pin] = []
    for line in text.splitlines():
        if found := _PINNED.match(line):
            pins.append(Pin(canonicalize_name(found[1]), found[2], ()))
        pins[-1:] = [
            pin._replace(hashes=(*pin.hashes, *_HASH.findall(line)))
            for pin in pins[-1:]
        ]
    return pins


def applies(advisory: dict[str, Any], pin: Pin) -> bool:
    """Say whether an OSV record covers a pin.

    Source: the OSV schema, "affected[].versions" and "affected[].ranges" of type
    ECOSYSTEM, evaluated as its appendix says.
    """
    for affected in advisory.get("affected", ()):
        package = affected.get("package", {})
        if package.get("ecosystem") != "PyPI":
            continue
        if canonicalize_name(package.get("name", "")) != pin.name:
            continue
        if pin.version in affected.get("versions", ()):
            return True
        ranges = affected.get("ranges", ())
        if any(_within(one["events"], Version(pin.version)) for one in ranges
               if one.get("type") == "ECOSYSTEM"):  # fmt: skip
            return True
    return False


def _within(events: Iterable[dict[str, str]], version: Version) -> bool:
    inside = False
    ordered = sorted(
        ((Version(text), kind) for event in events for kind, text in event.items()),
        key=lambda event: event[0],
    )
    for at, kind in ordered:
        if kind == "introduced" and version >= at:
            inside = True
        elif (kind == "fixed" and version >= at) or (
            kind == "last_affected" and version > at
        ):
            inside = False
    return inside


def findings(
    pins: list[Pin], advisories: Iterable[dict[str, Any]], accepted: dict[str, str]
) -> list[Finding]:
    """Give every advisory that applies to a pin, withdrawn ones aside."""
    by_name = {pin.name: pin for pin in pins}
    found = []
    for advisory in advisories:
        if advisory.get("withdrawn"):
            continue
        names = {
            canonicalize_name(one["package"]["name"])
            for one in advisory.get("affected", ())
            if "package" in one
        }
        found += [
            Finding(
                by_name[name], advisory["id"], advisory.get("summary", ""),
                accepted.get(advisory["id"]),
            )
            for name in sorted(names & by_name.keys())
            if applies(advisory, by_name[name])
        ]  # fmt: skip
    return found


def exported(path: Path) -> Iterator[dict[str, Any]]:
    """Give the OSV records of a JSON file or of a zip of them."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield json.loads(archive.read(name))
    else:
        record = json.loads(path.read_bytes())
        yield from record if isinstance(record, list) else [record]


def audit(exports: list[Path]) -> int:
    """Print what applies; 1 if something does that is not accepted."""
    ours = json.loads(ADVISORIES.read_bytes())
    pins = read_lock(LOCK.read_text(encoding="utf-8"))
    records = list(ours["advisories"])
    for path in exports:
        records += exported(path)
    found = findings(pins, records, ours["accepted"])
    for pin, advisory, summary, accepted in found:
        print(f"{pin.name} {pin.version}: {advisory}: {summary}")
        if accepted:
            print(f"  accepted: {accepted}")
    open_ones = [one for one in found if one.accepted is None]
    print(
        f"{len(pins)} packages, {len(records)} advisories: "
        f"{len(open_ones)} to act on, {len(found) - len(open_ones)} accepted"
    )
    return 1 if open_ones else 0


def bill() -> str:
    """Give the bill of materials of the lock and of Kafka's jars, CycloneDX JSON.

    A package's hashes are those of all its files: which one is installed depends on
    the machine.
    """
    bom = Bom()
    root = Component(
        name="stream-executor", version=__version__, type=ComponentType.APPLICATION
    )
    bom.metadata.component = root
    for pin in read_lock(LOCK.read_text(encoding="utf-8")):
        bom.components.add(
            _component(PackageURL("pypi", None, pin.name, pin.version), pin.hashes)
        )
    for jar in parse_lock(JARS.read_text(encoding="utf-8")):
        group, artifact, version = jar.coordinate.split(":")
        bom.components.add(
            _component(PackageURL("maven", group, artifact, version), [jar.sha256])
        )
    bom.register_dependency(root, bom.components)
    out = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return out.output_as_string(indent=2)


def _component(purl: PackageURL, hashes: Iterable[str]) -> Component:
    return Component(
        name=purl.name,
        group=purl.namespace,
        version=purl.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=purl.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in hashes],
    )


def main(arguments: list[str]) -> int:
    """Run as a program."""
    match arguments:
        case ["audit", *exports]:
            return audit([Path(path) for path in exports])
        case ["sbom", file]:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_text(bill() + "\n", encoding="utf-8")
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
