"""Where the token for SASL/OAUTHBEARER comes from: a file or an endpoint; a value.

Not here: getting it (``tokens``), which needs aiokafka and urllib3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from stream_executor.loopback import is_loopback
from stream_executor.model.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class OAuthSource:
    """Where tokens come from.

    Attributes:
        url: ``https://…``, ``file:///…``, or ``http://`` on this host.
        client_id: of the client credentials grant; not for a file.
        client_secret: its secret; never printed.
        scope: asked for, if any.
        cafile: PEM file with the authorities to trust; None is the system's.

    Raises:
        ConfigError: the address would carry the secret in the clear, or has none.
    """

    url: str
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    scope: str | None = None
    cafile: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme == "file" and parts.path:
            return
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise ConfigError(
                "OAUTHBEARER: expected https:// or file:/// as token endpoint, "
                f"got {self.url[:64]!r}"
            )
        if not (self.client_id and self.client_secret):
            raise ConfigError(
                "OAUTHBEARER: a token endpoint needs a client id and a client secret"
            )
