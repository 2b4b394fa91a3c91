"""The first requester's credentials, made with the deployment.

An HS256 secret and an Administrator's key, so that whoever began a deployment can use
it at once. Real requesters get keys of their own (``keys generate``).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from stream_executor.audit.key_files import load_private_key, write_new
from stream_executor.audit.signing import public_bytes
from stream_executor.client.credentials import (
    Credentials,
    CredentialTopics,
    write_credentials,
)

if TYPE_CHECKING:
    from pathlib import Path

    from stream_executor.kafka.topics import TopicNames

ISSUER = "wasm-executor"
SUBJECT = "first-requester"
_SECRET_BYTES = 48


def write_first(
    keys: Path,
    bootstrap_servers: str,
    audience: str,
    topics: TopicNames,
    http: str | None = None,
    name: str = "credentials.json",
    configured: str = "",
) -> list[str]:
    """Write the credentials beside the keys; make JWT_SECRET if there is none yet.

    Args:
        keys: the ceremony's folder.
        bootstrap_servers: as requesters reach the brokers.
        audience: of tokens.
        topics: their names.
        http: address of the HTTP port, if it is known.
        name: of the credentials file in the folder.
        configured: the JWT_SECRET that the service has already; empty if it has none.

    Returns:
        Lines for config.env that go with it.

    Raises:
        ConfigError: a file cannot be read or written.
    """
    secret = keys / "jwt-secret"
    if not secret.exists():
        text = configured or secrets.token_urlsafe(_SECRET_BYTES)
        write_new(secret, text.encode() + b"\n")
    operator = load_private_key(keys / "operator.pem")
    write_credentials(
        keys / name,
        Credentials(
            bootstrap_servers=bootstrap_servers,
            audience=audience,
            issuer=ISSUER,
            subject=SUBJECT,
            secret_file=secret.name,
            topics=CredentialTopics(
                **{f: getattr(topics, f) for f in CredentialTopics.__struct_fields__}
            ),
            administrator_key_file="administrator.pem",
            operator_public_key=public_bytes(operator).hex(),
            http=http,
        ),
    )
    return [] if configured else [f"JWT_SECRET_FILE={secret.absolute()}"]
