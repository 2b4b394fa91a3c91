"""Gather raw values by name: from ``config.env``, then the environment, which wins.

Decides which names are ours and says so of each that is not: a misspelt one is a
problem with a suggestion; what Kubernetes injects for a Service of our name is known
and left out; ``KAFKA_*`` becomes Kafka client properties by the rule of Confluent's
images. Secrets may come from a file, by a name that ends in ``_FILE``. Every problem is
collected, none raised. What values mean is for ``settings``.

Source: docs/settings.md; Kubernetes, "Environment variables of a Service";
cp-kafka's naming rule: upper case, ``.`` as ``_``, ``-`` as ``__``, ``_`` as ``___``.
"""

from __future__ import annotations

import contextlib
import difflib
import grp
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from stream_executor.environment_file import read_environment_file
from stream_executor.kafka.connection import read_properties
from stream_executor.model.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

DEFAULT_FILE = Path("/etc/wasm-executor/config.env")
FILE_VARIABLE = "WASM_EXECUTOR_ENV_FILE"
OUR_PREFIX = "WASM_EXECUTOR_"
TEST_PREFIX = "WASM_EXECUTOR_TEST_"  # for the test suite, not for the service
KAFKA_PREFIX = "KAFKA_"
PROPERTIES_FILE = "KAFKA_PROPERTIES_FILE"

SERVICE_LINK_REMEDY = (
    "Kubernetes injected it for a Service of that name: set `enableServiceLinks: "
    "false` in the pod's spec, or rename the Service"
)
_SERVICE_LINK = re.compile(
    r".*_SERVICE_HOST|.*_SERVICE_PORT(_\w+)?"
    r"|.*_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")
_SECRET_PROPERTY = re.compile(r"password|secret|jaas|(^|\.)(key|key\.pem|token)$")


class RawValue(msgspec.Struct, frozen=True):
    """A value as text, and where it came from (``environment``, ``FILE:LINE`` …)."""

    text: str
    origin: str

    def __repr__(self) -> str:  # the text may be a secret
        return f"RawValue(…, {self.origin!r})"


class Gathered(msgspec.Struct, frozen=True):
    """Everything found.

    Attributes:
        values: of our settings, by name.
        properties: Kafka client properties, by Kafka's name.
        problems: why the service must not start with this; complete.
        notes: what an operator may want to know.
    """

    values: dict[str, RawValue]
    properties: dict[str, RawValue]
    problems: list[str]
    notes: list[str]


def is_secret_property(name: str) -> bool:
    """Tell whether a Kafka client property must not be shown."""
    return _SECRET_PROPERTY.search(name) is not None


def gather(
    environment: Mapping[str, str],
    file: Path | None,
    known: Collection[str],
    from_files: Collection[str],
) -> Gathered:
    """Gather values.

    Args:
        environment: of the process.
        file: the file that must be read; None reads ``WASM_EXECUTOR_ENV_FILE`` or, if
            it is there, ``DEFAULT_FILE``.
        known: names of all settings.
        from_files: those of them that may come as ``<name>_FILE``.
    """
    found = Gathered({}, {}, [], [])
    twins = {f"{name}_FILE": name for name in from_files}
    names = [*known, *twins, PROPERTIES_FILE]
    merged = _from_file(environment, file, names, found)
    for name, text in environment.items():
        same = merged.get(name)
        # With EnvironmentFile= in the unit, systemd has read the same line and kept
        # the comment after its value.
        if same is None or same.systemd_text != text:
            merged[name] = _Candidate(text, text, "environment")
    for name, candidate in merged.items():
        raw = RawValue(candidate.text, candidate.origin)
        if name in known:
            _take(name, raw, found)
        elif name in twins:
            _take_file(name, raw, found, found.values, twins[name])
        elif name.startswith(KAFKA_PREFIX):
            _take_kafka(name, raw, found)
        elif name.startswith(OUR_PREFIX):
            _judge_unknown(name, raw, [*known, *twins], found)
    return found


class _Candidate(msgspec.Struct, frozen=True):
    text: str
    systemd_text: str
    origin: str


def _from_file(
    environment: Mapping[str, str],
    file: Path | None,
    known: list[str],
    found: Gathered,
) -> dict[str, _Candidate]:
    """Read the file, if there is one; the last assignment of a name wins."""
    required = file is not None or bool(environment.get(FILE_VARIABLE))
    file = configuration_file(environment, file)
    nested = _nested(file)
    try:
        parsed = read_environment_file(file)
    except FileNotFoundError:
        if nested:
            found.problems.append(f"{file} is missing: {nested}")
        elif required:
            found.problems.append(f"{file}: no such file")
        return {}
    except PermissionError:
        found.problems.append(_explain_forbidden(file))
        return {}
    except OSError as error:
        found.problems.append(f"{file}: {error.strerror}")
        return {}
    if nested:
        found.notes.append(f"{file} is not the restored one: {nested}")
    found.problems.extend(parsed.problems)
    merged: dict[str, _Candidate] = {}
    for a in parsed.assignments:
        ours = a.name.startswith((OUR_PREFIX, KAFKA_PREFIX)) or a.name in known
        if not ours and (near := _nearest(a.name, known)):
            found.problems.append(
                f"{file}:{a.line}: {a.name} is no setting; did you mean {near}?"
            )
        # Not an update: the order must be that of the last assignments.
        merged.pop(a.name, None)
        merged[a.name] = _Candidate(a.value, a.systemd_value, f"{file}:{a.line}")
    return merged


def configuration_file(environment: Mapping[str, str], file: Path | None) -> Path:
    """Give the configuration file: the one asked for, else the usual one."""
    return file or Path(environment.get(FILE_VARIABLE) or DEFAULT_FILE)


def _nested(file: Path) -> str:
    """Name the mistake if a restored backup landed one folder too deep."""
    # The manual's `cp -r /backup/wasm-executor-config-DATE /etc/wasm-executor` nests
    # its source when the target is there already.
    nested = sorted(file.parent.glob(f"wasm-executor-config-*/{file.name}"))
    if not nested:
        return ""
    copy, folder = nested[-1].parent, file.parent
    return (
        f"a backup was copied into the folder, to {copy}, instead of over it; "
        f"sudo cp -aT {copy} {folder} && sudo rm -r {copy}"
    )


def _explain_forbidden(file: Path) -> str:
    """Say what to do about a file that another user put there, say root by `cp -r`."""
    group = str(os.getegid())
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(os.getegid()).gr_name
    return f"{file}: permission denied; sudo chgrp -R {group} {file.parent}"


def _take(name: str, raw: RawValue, found: Gathered) -> None:
    if name.endswith("_PORT") and _SERVICE_ADDRESS.match(raw.text):
        found.problems.append(f"{name}={raw.text}: {SERVICE_LINK_REMEDY}")
    elif name in found.values:
        found.problems.append(f"{name} is set, and so is {name}_FILE")
    else:
        found.values[name] = raw


def _take_kafka(name: str, raw: RawValue, found: Gathered) -> None:
    key = property_name(name)
    plain = key.removesuffix(".file")
    if _is_service_link(name, raw.text):
        return
    if name == PROPERTIES_FILE:
        _take_properties(raw, found)
    elif plain != key and is_secret_property(plain):
        _take_file(name, raw, found, found.properties, plain)
    else:
        found.properties[key] = raw


def _take_properties(raw: RawValue, found: Gathered) -> None:
    try:
        listed = read_properties(Path(raw.text).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        found.problems.append(f"{PROPERTIES_FILE}: {raw.text}: {error}")
        return
    for name, value in listed.items():
        # A variable is nearer than a file, whichever came first.
        found.properties.setdefault(name, RawValue(value, raw.text))


def property_name(variable: str) -> str:
    """Give the Kafka property that a ``KAFKA_*`` variable stands for."""
    signs = {"_": ".", "__": "-", "___": "_"}
    rest = variable.removeprefix(KAFKA_PREFIX).lower()
    return re.sub(r"_{1,3}", lambda match: signs[match[0]], rest)


def _take_file(
    name: str, raw: RawValue, found: Gathered, into: dict[str, RawValue], key: str
) -> None:
    """Take a value from the file that a ``_FILE`` variable names."""
    path = Path(raw.text)
    if key in into:
        found.problems.append(f"{name} is set, and so is the same without _FILE")
        return
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        found.problems.append(f"{name}: {path}: {error.strerror}")
    except UnicodeDecodeError:
        found.problems.append(f"{name}: {path}: not UTF-8 text")
    else:
        # Editors and `echo` end files with a newline that no secret has.
        into[key] = RawValue(text.rstrip("\r\n"), f"{path} ({name})")


def _is_service_link(name: str, text: str) -> bool:
    address = name.endswith("_PORT") and _SERVICE_ADDRESS.match(text) is not None
    return address or _SERVICE_LINK.fullmatch(name) is not None


def _judge_unknown(
    name: str, raw: RawValue, known: Collection[str], found: Gathered
) -> None:
    if name == FILE_VARIABLE or name.startswith(TEST_PREFIX):
        return
    if _is_service_link(name, raw.text):
        found.notes.append(f"{name} is left out: {SERVICE_LINK_REMEDY}")
        return
    near = _nearest(name, known)
    hint = f"; did you mean {near}?" if near else ""
    found.problems.append(f"{name} ({raw.origin}) is no setting{hint}")


def _nearest(name: str, known: Collection[str]) -> str | None:
    # Without the prefix, which would make all names alike.
    plain = {other.removeprefix(OUR_PREFIX): other for other in known}
    near = difflib.get_close_matches(name.removeprefix(OUR_PREFIX), plain, 1, 0.75)
    return plain[near[0]] if near else None
