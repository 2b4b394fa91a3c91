"""A Kafka as production has it: TLS, SASL, an authorizer that refuses by default.

One broker a session, and a second for mutual TLS. Its users may do what a test grants.
"""

from __future__ import annotations

import http.server
import json
import threading
import time
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from stream_executor.embedded import EmbeddedKafka
from stream_executor.kafka.acls import Principals
from tests.pki import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WHO = Principals()
USERS = ("admin", *(getattr(WHO, name) for name in WHO.__struct_fields__))
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    # The broker speaks to itself without a name.
    "super.users": "User:admin;User:ANONYMOUS",
}
_MODULES = "org.apache.kafka.common.security"
_VALIDATOR = f"{_MODULES}.oauthbearer.OAuthBearerValidatorCallbackHandler"
OAUTH_AUDIENCE = "kafka.test"


def password(user: str) -> str:
    """Give a user's password."""
    return f"{user}-secret"


class IdentityProvider:
    """An OAuth 2 token endpoint on this host, and the key set that brokers read.

    Attributes:
        asked: how many tokens it was asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        public = jwt.algorithms.RSAAlgorithm.to_jwk(
            self._key.public_key(), as_dict=True
        )
        keys = {"keys": [{**public, "kid": "k1", "use": "sig", "alg": "RS256"}]}
        self.jwks = folder / "jwks.json"
        self.jwks.write_text(json.dumps(keys))
        self.asked = 0
        provider = self

        class Endpoint(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                status, body = provider._answer(self.headers, self.rfile.read(length))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def token(self, subject: str, lasting_s: int = 300) -> str:
        """Give an access token that the broker takes."""
        now_s = int(time.time())
        claims = {
            "iss": "idp", "sub": subject, "aud": OAUTH_AUDIENCE, "scope": "kafka",
            "iat": now_s, "exp": now_s + lasting_s,
        }  # fmt: skip
        return jwt.encode(claims, self._key, "RS256", {"kid": "k1"})

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        for user in USERS:
            basic = b64encode(f"{user}:{password(user)}".encode()).decode()
            if headers["authorization"] == f"Basic {basic}":
                self.asked += 1
                assert b"grant_type=client_credentials" in body
                return 200, {"access_token": self.token(user), "expires_in": 300}
        return 401, {"error": "invalid_client"}


@dataclass(frozen=True)
class SecuredKafka:
    """The broker, and how its users connect."""

    bootstrap: str
    authority: Authority
    identity: IdentityProvider

    def properties(self, user: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """Give a user's client properties, with Java's names."""
        common = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": mechanism,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.certificate),
        }
        if mechanism == "OAUTHBEARER":
            module = f"{_MODULES}.oauthbearer.OAuthBearerLoginModule"
            login = f'clientId="{user}" clientSecret="{password(user)}"'
            common["sasl.oauthbearer.token.endpoint.url"] = self.identity.url
        else:
            kind = "plain.Plain" if mechanism == "PLAIN" else "scram.Scram"
            module = f"{_MODULES}.{kind}LoginModule"
            login = f'username="{user}" password="{password(user)}"'
        return {**common, "sasl.jaas.config": f"{module} required {login};"}


def write_properties(path: Path, properties: dict[str, str]) -> Path:
    """Write a client.properties file."""
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    return path


@contextmanager
def broker(
    protocol: str, authority: Authority, more: dict[str, str], **options: Any
) -> Iterator[str]:
    """Run a broker whose listener for clients is not plaintext."""
    mapping = f"CLIENTS:{protocol},LOCAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
    properties = {
        "listener.security.protocol.map": mapping,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(authority.issue("broker")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
        **AUTHORIZER,
        **more,
    }
    with EmbeddedKafka(properties=properties, **options) as kafka:
        yield kafka.bootstrap


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """Give a broker with SASL_SSL: PLAIN, SCRAM and OAUTHBEARER."""
    folder = tmp_path_factory.mktemp("secured")
    authority, identity = Authority(folder), IdentityProvider(folder)
    plain = " ".join(f'user_{user}="{password(user)}"' for user in USERS)
    prefix = "listener.name.clients"
    jwks = identity.jwks.as_uri().replace("file:///", "file:/")
    properties = {
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        f"{prefix}.plain.sasl.jaas.config": (
            f"{_MODULES}.plain.PlainLoginModule required {plain};"
        ),
        f"{prefix}.oauthbearer.sasl.jaas.config": (
            f"{_MODULES}.oauthbearer.OAuthBearerLoginModule required;"
        ),
        f"{prefix}.oauthbearer.sasl.server.callback.handler.class": _VALIDATOR,
        f"{prefix}.sasl.oauthbearer.jwks.endpoint.url": jwks,
        f"{prefix}.sasl.oauthbearer.expected.audience": OAUTH_AUDIENCE,
    }
    for mechanism in ("scram-sha-256", "scram-sha-512"):
        properties[f"{prefix}.{mechanism}.sasl.jaas.config"] = (
            f"{_MODULES}.scram.ScramLoginModule required;"
        )
    scram = [
        option
        for user in USERS
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        for option in (
            "--add-scram",
            f"{mechanism}=[name={user},password={password(user)}]",
        )
    ]
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks}"
    with broker(
        "SASL_SSL", authority, properties,
        format_arguments=scram, jvm_arguments=(allowed,),
    ) as bootstrap:  # fmt: skip
        yield SecuredKafka(bootstrap, authority, identity)
    identity.close()
