"""Signing keys and secrets as files: made once, private, never overwritten.

A private key is unencrypted PKCS8 in PEM (what ``openssl genpkey`` writes), readable
by its owner alone; who wants more puts it where only a service can read it and names
it in the settings. A file appears whole or not at all.

Not here: which key is for what (``services.ceremony``), and the settings' own texts
(``key_text``).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from stream_executor.key_text import read_bytes, read_private_key, read_public_key
from stream_executor.model.errors import ConfigError

SECRET_BYTES = 32
_MODE = 0o600


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key.

    Raises:
        ConfigError: the file cannot be read or holds no such key; no message quotes
            it.
    """
    try:
        return read_private_key(_read(path))
    except ValueError as error:
        message = (
            f"{path} holds no Ed25519 private key: {error}; make one with "
            "`wasm-executor keys generate`"
        )
        raise ConfigError(message) from error


def load_secret(path: Path) -> bytes:
    """Read a 32-byte secret (base64 or hex).

    Raises:
        ConfigError: as ``load_private_key``.
    """
    try:
        return read_bytes(_read(path))
    except ValueError as error:
        message = (
            f"{path} holds no secret: {error}; make one with `openssl rand -hex 32`"
        )
        raise ConfigError(message) from error


def public_key(text_or_path: str) -> bytes:
    """Give the public key that a text (PEM, base64, hex) holds or a file contains.

    What is no file's name is the key: base64 may hold a slash.

    Raises:
        ConfigError: it is neither.
    """
    text = text_or_path
    if "\n" not in text and _is_file(text):
        text = _read(Path(text))
    try:
        return read_public_key(text)
    except ValueError as error:
        # Somebody may have pasted a private key: only what may be a name is quoted.
        shown = "the text" if "\n" in text_or_path else repr(text_or_path[:80])
        message = (
            f"{shown} is neither a file that can be read nor an Ed25519 "
            f"public key: {error}; give 64 hex digits, or a file with the key in PEM"
        )
        raise ConfigError(message) from error


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # no name that a file may have, or a folder that is closed to us
        return False


def private_key_at(path: Path) -> tuple[Ed25519PrivateKey, bool]:
    """Give the key of a file, made now if there is none; True if it was made.

    Raises:
        ConfigError: the file is there and holds no key, or cannot be written.
    """
    if path.exists():
        return load_private_key(path), False
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_new(path, pem)
    return key, True


def secret_at(path: Path) -> tuple[bytes, bool]:
    """Give the 32-byte secret of a file, made now if there is none.

    Raises:
        ConfigError: as ``private_key_at``.
    """
    if path.exists():
        return load_secret(path), False
    secret = secrets.token_bytes(SECRET_BYTES)
    write_new(path, secret.hex().encode() + b"\n")
    return secret, True


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet: mode 0600, whole or not at all, durable.

    Raises:
        ConfigError: it is there, or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # A link fails where a rename would replace somebody's key.
            os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        if isinstance(error, FileExistsError) and path.exists():
            message = f"{path} is there already, and a key is never overwritten"
        raise ConfigError(message) from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        message = f"cannot read {path}: {reason}; check its path, owner and mode"
        raise ConfigError(message) from error
