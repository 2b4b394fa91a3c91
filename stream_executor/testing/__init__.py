"""What users' own tests need.

- ``stream_executor.testing.kafka``: Apache Kafka as a pytest plug-in.
- ``SecretSigner``: signs requests with a secret of the test's own.
- ``run_local``: runs a request in the real sandbox, without Kafka.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream_executor.services.local import run_local
    from stream_executor.testing.signer import SecretSigner

__all__ = ["SecretSigner", "run_local"]

_HOMES = {
    "SecretSigner": "stream_executor.testing.signer",
    "run_local": "stream_executor.services.local",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
