"""Read ``config.env``: systemd's EnvironmentFile dialect, and comments after values.

    # a comment          ; another one
    MAX_FUEL=5000000     # systemd itself would keep this text; here it is a comment
    JWT_SECRET="q3J/+8=" # quotes or none
    AUDIT_LOG_PATH='/var/log/wasm-executor/audit.log'

Both line endings, blank lines, blanks around ``=``, a backslash before a line's end to
go on in the next, quoted values over several lines, the last assignment of a name wins.
Nothing is expanded: ``$HOME`` stays as it is. Whatever is no assignment is a problem
that names the line, and the key if there is one, but never quotes a value: it may be
half a secret. Which names mean something is not known here.

Source: systemd.exec(5), EnvironmentFile=; ``parse_env_file_internal`` of systemd.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 1024 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_DOUBLE_QUOTED_ESCAPES = '"\\`$'


class Assignment(msgspec.Struct, frozen=True):
    """One ``NAME=value``.

    Attributes:
        value: what we take.
        systemd_value: what systemd would put into the environment for the same line:
            it keeps the comment after a value (systemd#12527).
        line: the line's number, from 1.
    """

    name: str
    value: str
    systemd_value: str
    line: int


class EnvironmentFile(msgspec.Struct, frozen=True):
    """A file's assignments in order, and what is wrong with it, all at once."""

    assignments: list[Assignment]
    problems: list[str]


def read_environment_file(path: Path) -> EnvironmentFile:
    """Read a file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        return EnvironmentFile([], [f"{path}: larger than {MAX_FILE_BYTES} bytes"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return EnvironmentFile([], [f"{path}:{line}: not UTF-8"])
    parsed = parse_environment_file(text)
    return EnvironmentFile(
        parsed.assignments, [f"{path}:{problem}" for problem in parsed.problems]
    )


def parse_environment_file(text: str) -> EnvironmentFile:
    """Read a file's text; problems begin with the line's number."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    assignments: list[Assignment] = []
    problems: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at].strip()
        used = 1
        if line and line[0] not in "#;":
            try:
                assignment, used = _assignment(lines, at)
                assignments.append(assignment)
            except _BadLineError as error:
                problems.append(f"{at + 1}: {error}")
        at += used
    return EnvironmentFile(assignments, problems)


class _BadLineError(Exception):
    """What is wrong with a line."""


def _assignment(lines: list[str], at: int) -> tuple[Assignment, int]:
    """Read the assignment that begins at a line; give it and the lines used."""
    name, equals, rest = lines[at].partition("=")
    name, rest = name.strip(), rest.lstrip()
    if not equals:
        raise _BadLineError("expected NAME=value")
    if name.startswith("export "):
        raise _BadLineError("expected NAME=value: `export` is for shells")
    if not _NAME.fullmatch(name):
        # Not quoted: it may be the rest of a secret that lost its line.
        raise _BadLineError("expected NAME=value: letters, digits and _ before the =")
    following = lines[at + 1 :]
    try:
        if rest and rest[0] in "'\"":
            value, systemd_value, used = _quoted(rest[0], [rest[1:], *following])
        else:
            value, systemd_value, used = _bare([rest, *following])
    except _BadLineError as error:
        raise _BadLineError(f"{name}: {error}") from error
    if any(c < " " and c not in "\t\n" for c in value):
        raise _BadLineError(f"{name}: the value holds a control character")
    return Assignment(name, value, systemd_value, at + 1), used


def _bare(lines: list[str]) -> tuple[str, str, int]:
    """Take an unquoted value; give it, systemd's reading, and the lines used."""
    text, used = lines[0], 1
    while _ends_open(text) and used < len(lines):
        text = text[:-1] + lines[used]
        used += 1
    value = _COMMENT.sub("", text).strip()
    return _unescape(value), _unescape(text.strip()), used


def _ends_open(text: str) -> bool:
    """Tell whether a backslash, itself not escaped, ends the line."""
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _quoted(quote: str, lines: list[str]) -> tuple[str, str, int]:
    """Take a quoted value from after its quote; give the same three things."""
    value: list[str] = []
    for used, line in enumerate(lines, start=1):
        at = 0
        while at < len(line):
            character = line[at]
            at += 1
            if character == quote:
                rest = line[at:].strip()
                if rest and not _COMMENT.match(rest):
                    raise _BadLineError("text after the closing quote")
                text = "".join(value)
                return text, text + rest, used
            if character == "\\" and quote == '"':
                if at == len(line):
                    break  # the line goes on in the next
                if line[at] in _DOUBLE_QUOTED_ESCAPES:
                    character = line[at]
                    at += 1
            value.append(character)
        else:
            value.append("\n")
    raise _BadLineError("the quote is not closed")
