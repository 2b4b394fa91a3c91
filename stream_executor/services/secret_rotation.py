"""Rotating ``JWT_SECRET`` where it lies: in ``config.env``, or the file that it names.

With grace the old secret goes to ``JWT_SECRET_PREVIOUS`` and is accepted beside the
new one until ``end_grace``; without, old tokens fail at the next start. A file is
replaced whole, with its mode and owner, and only by a text that reads as it should.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
from pathlib import Path

import msgspec

from stream_executor.environment_file import parse_environment_file
from stream_executor.model.errors import ConfigError

SECRET = "JWT_SECRET"  # noqa: S105 - a setting's name
PREVIOUS = "JWT_SECRET_PREVIOUS"
_FILE = f"{SECRET}_FILE"
# As the operations manual's `openssl rand -base64 48`.
_SECRET_BYTES = 48


class Rotation(msgspec.Struct, frozen=True):
    """What a rotation changed: the file, and whether the old secret still counts."""

    file: Path
    grace: bool


def new_secret() -> str:
    """Give 48 random bytes as base64."""
    return base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def rotate(config: Path, secret: str, *, grace: bool) -> Rotation:
    """Put a secret in the place of the present one.

    Args:
        config: the service's configuration file.
        secret: the new one; ``new_secret`` makes it.
        grace: keep accepting the present one.

    Raises:
        ConfigError: the file cannot be read, written, or changed by a machine; it is
            as it was then, and no message quotes a secret.
    """
    text = _read(config)
    values = _values(config, text)
    holder = Path(values[_FILE]) if _FILE in values else config
    if holder != config:
        old = _read(holder).strip()
        changes = {PREVIOUS: old if grace else None}
        # First the word that the old one is still good, then the new one.
        _replace(config, _edited(config, text, changes))
        _replace(holder, f"{secret}\n")
        return Rotation(holder, grace)
    if SECRET not in values:
        raise ConfigError(f"{config} has no {SECRET} that could be rotated")
    changes = {SECRET: secret, PREVIOUS: values[SECRET] if grace else None}
    _replace(config, _edited(config, text, changes))
    return Rotation(config, grace)


def end_grace(config: Path) -> bool:
    """Accept the previous secret no longer; False if there is none.

    Raises:
        ConfigError: as ``rotate``.
    """
    text = _read(config)
    if PREVIOUS not in _values(config, text):
        return False
    _replace(config, _edited(config, text, {PREVIOUS: None}))
    return True


def _values(config: Path, text: str) -> dict[str, str]:
    parsed = parse_environment_file(text)
    if parsed.problems:
        raise ConfigError(f"{config}:{parsed.problems[0]}")
    return {one.name: one.value for one in parsed.assignments}


def _edited(config: Path, text: str, changes: dict[str, str | None]) -> str:
    """Give the text with these values, each on one line; None drops the name."""
    before = _values(config, text)
    for name, value in changes.items():
        line = re.compile(rf"^[ \t]*{name}[ \t]*=.*\n?", re.MULTILINE)
        first = line.search(text)
        at = first.start() if first else len(text)
        text = line.sub("", text)
        if value is None:
            continue
        begin, end = text[:at], text[at:]
        newline = "\n" if begin and not begin.endswith("\n") else ""
        text = f"{begin}{newline}{name}={value}\n{end}"
    after = {name: value for name, value in changes.items() if value is not None}
    kept = {name: value for name, value in before.items() if name not in changes}
    if _values(config, text) != kept | after:
        # A value over several lines, or one that would need quotes.
        raise ConfigError(
            f"{config}: {SECRET} is written in a way that only a person can change"
        )
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}") from error


def _replace(path: Path, text: str) -> None:
    """Replace a file whole, durably, with the mode and owner that it has."""
    target = path.resolve()  # a link stays a link
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        was = target.stat()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchown(file.fileno(), was.st_uid, was.st_gid)
                os.fchmod(file.fileno(), was.st_mode & 0o7777)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot replace {path}: {error.strerror}") from error
