"""``keys``: make signing keys and the JWK set that tells workers of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stream_executor.cli.failures import CommandError
from stream_executor.cli.options import Json
from stream_executor.cli.output import hint, print_json, say, write
from stream_executor.cli.reach import read_file

keys = typer.Typer(help="Make keys for those who ask.", no_args_is_help=True)

_ALGORITHMS = ("EdDSA", "ES256", "RS256", "PS256")


@keys.command()
def generate(
    *,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="Private key (PEM), made 0600."),
    ],
    algorithm: Annotated[
        str, typer.Option("--alg", help="EdDSA, ES256, RS256 or PS256.")
    ] = "EdDSA",
    kid: Annotated[
        str | None, typer.Option(help="Its name in the JWK set; else its thumbprint.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key pair: the private key into a new file, the public JWK to stdout."""
    import orjson

    from stream_executor.audit.key_files import write_new
    from stream_executor.auth.jwks import generate_key

    if algorithm not in _ALGORITHMS:
        raise CommandError("USAGE", f"--alg: expected one of {', '.join(_ALGORITHMS)}")
    made = generate_key(algorithm, kid)
    write_new(out, made.private_pem)
    if json:
        print_json({"private_key_file": str(out), "jwk": made.jwk}, schema="key")
    else:
        write(orjson.dumps(made.jwk) + b"\n")
    hint(
        f"private key: {out}; keep it\n  try: wasm-executor keys jwks {out} > jwks.json"
    )


@keys.command()
def jwks(
    *,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Keys (PEM, private or public) or JWKs."
        ),
    ],
    issuer: Annotated[
        list[str] | None,
        typer.Option("--issuer", help="Issuer the keys may speak for; repeat it."),
    ] = None,
    role: Annotated[
        str, typer.Option(help="Highest role: Agent, Administrator or Auditor.")
    ] = "Agent",
) -> None:
    """Print the JWK set of some keys, for WASM_EXECUTOR_JWKS_FILE; public parts."""
    from stream_executor.auth.jwks import jwks as document
    from stream_executor.model.codes import Role

    if role not in set(Role):
        raise CommandError("USAGE", f"--role: expected one of {', '.join(Role)}")
    members: dict[str, object] = {"wx_role": role}
    if issuer:
        members["wx_issuers"] = issuer
    say(document([_public(path) | members for path in files]).decode().rstrip())


def _public(path: Path) -> dict[str, object]:
    """Give the public JWK of a key file of any kind."""
    import orjson
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from stream_executor.auth.jwks import (
        PRIVATE_MEMBERS,
        algorithms_of,
        public_jwk,
        read_private_key,
    )
    from stream_executor.model.errors import ConfigError

    raw = read_file(path)
    if raw.lstrip().startswith(b"{"):
        jwk = orjson.loads(raw)
        return {name: jwk[name] for name in jwk if name not in PRIVATE_MEMBERS}
    try:
        if b"PRIVATE" in raw:
            public = read_private_key(raw).public_key()
        else:
            public = load_pem_public_key(raw)  # type: ignore[assignment]
        return public_jwk(public, algorithms_of(public)[0])
    except (ConfigError, ValueError, IndexError) as error:
        raise CommandError(
            "CONFIG", f"{path} holds no key that can sign here"
        ) from error
