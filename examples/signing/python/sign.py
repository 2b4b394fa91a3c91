"""Sign one request with PyJWT and nothing else of ours; prints the token.

    sign.py TOPIC PARTITION VALUE_FILE

Environment: WX_ISSUER, WX_SUBJECT, WX_AUDIENCE; and WX_SECRET_FILE (HS256) or
WX_KEY_FILE with WX_KID (Ed25519 private key, PKCS 8 PEM; needs `cryptography`).
See docs/signing.md.
"""

import base64
import hashlib
import os
import secrets
import sys
import time
from pathlib import Path

import jwt


def main() -> None:
    """Read the value's exact bytes, sign them for one partition, print the token."""
    topic, partition, value_file = sys.argv[1:]
    digest = hashlib.sha256(Path(value_file).read_bytes()).digest()
    now = int(time.time())
    claims = {
        "iss": os.environ["WX_ISSUER"],
        "sub": os.environ["WX_SUBJECT"],
        "aud": os.environ["WX_AUDIENCE"],
        "iat": now,
        "exp": now + 120,
        "jti": secrets.token_urlsafe(18),
        "role": "Agent",
        "wx": {
            "v": 1,
            "topic": topic,
            "partition": int(partition),
            "body_s256": base64.urlsafe_b64encode(digest).decode().rstrip("="),
        },
    }
    if secret_file := os.environ.get("WX_SECRET_FILE"):
        secret = Path(secret_file).read_bytes().rstrip(b"\r\n")
        print(jwt.encode(claims, secret, "HS256"))
    else:
        key = Path(os.environ["WX_KEY_FILE"]).read_bytes()
        kid = {"kid": os.environ["WX_KID"]}
        print(jwt.encode(claims, key, "EdDSA", headers=kid))


if __name__ == "__main__":
    main()
