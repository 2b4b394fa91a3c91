"""Who signs: the credentials' key or, on the service's own host, its JWT_SECRET."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

from stream_executor.cli.failures import CommandError
from stream_executor.client.client import ExecutorClient

if TYPE_CHECKING:
    from stream_executor.cli.reach import Reach
    from stream_executor.client.ports import Signer


async def client_of(reach: Reach, *, results: bool) -> ExecutorClient:
    """Give the SDK's client, not open yet.

    Raises:
        CommandError, ConfigError: there is nothing to sign with.
    """
    return ExecutorClient(
        bootstrap_servers=reach.properties.get("bootstrap.servers"),
        signer=await signer_of(reach),
        requests_topic=reach.topics.requests,
        results_topic=reach.topics.results,
        kafka_properties=reach.used_properties,
        results=results,
    )


async def signer_of(reach: Reach) -> Signer:
    """Give what signs requests.

    Raises:
        CommandError, ConfigError: nothing was given, or it cannot be used.
    """
    if reach.credentials is not None:
        return reach.credentials.signer()
    secret = reach.settings.jwt_secret
    if secret is None:
        raise CommandError(
            "CONFIG",
            "there is no key to sign with",
            cause="neither --credentials nor JWT_SECRET in the configuration",
            remedy="wasm-executor dev, and the credentials file it prints",
        )
    from stream_executor.auth.sign import RequestSigner

    settings = reach.settings
    return RequestSigner.from_secret(
        secret.get_secret_value(),
        issuer=settings.jwt_secret_issuers[0],
        subject=getpass.getuser(),
        audience=settings.audience or await _audience(reach),
    )


async def _audience(reach: Reach) -> str:
    """Give what `init` wrote, as workers do; without its key, what it would write."""
    from stream_executor.services.speaking import read_view

    if reach.settings.operator_public_key is None:
        return f"{reach.settings.app_id}/{await cluster_id(reach)}"
    root = reach.operator_public_key()
    view = await read_view(reach.connection, reach.topics.control, root)
    return view.audience


async def cluster_id(reach: Reach) -> str:
    """Ask the brokers which cluster they are.

    Raises:
        UnavailableError: nobody answers.
    """
    from stream_executor.kafka.admin import KafkaAdmin

    async with KafkaAdmin(reach.connection) as admin:
        return (await admin.cluster()).cluster_id
