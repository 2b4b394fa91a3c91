#!/usr/bin/env bash
# Sign one request with openssl (3.0 or newer); prints the token.
#
#   sign.sh TOPIC PARTITION VALUE_FILE
#
# Environment: WX_ISSUER, WX_SUBJECT, WX_AUDIENCE; and WX_SECRET_FILE (HS256) or
# WX_KEY_FILE with WX_KID (Ed25519 private key, PKCS 8 PEM). See docs/signing.md.
#
# With HS256 the secret is an argument of openssl for a moment, which other users of
# this machine can see. On a shared machine sign with an Ed25519 key.
set -euo pipefail

topic=$1 partition=$2 value_file=$3
: "${WX_ISSUER:?}" "${WX_SUBJECT:?}" "${WX_AUDIENCE:?}"

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# No JSON writer here: take only what needs no escaping.
for text in "$topic" "$WX_ISSUER" "$WX_SUBJECT" "$WX_AUDIENCE" "${WX_KID:-}"; do
  if [[ $text == *[\"\\]* || $text == *[[:cntrl:]]* ]]; then
    echo "quotation marks, backslashes and control characters are not for this script" >&2
    exit 2
  fi
done

now=$(date +%s)
claims=$(printf '{"iss":"%s","sub":"%s","aud":"%s","iat":%d,"exp":%d,"jti":"%s","role":"Agent","wx":{"v":1,"topic":"%s","partition":%d,"body_s256":"%s"}}' \
  "$WX_ISSUER" "$WX_SUBJECT" "$WX_AUDIENCE" "$now" "$((now + 120))" \
  "$(openssl rand 18 | base64url)" "$topic" "$partition" \
  "$(openssl dgst -sha256 -binary "$value_file" | base64url)")

if [[ -n ${WX_SECRET_FILE:-} ]]; then
  header='{"alg":"HS256","typ":"JWT"}'
else
  header=$(printf '{"alg":"EdDSA","kid":"%s","typ":"JWT"}' "${WX_KID:?}")
fi
signing_input=$(printf '%s' "$header" | base64url).$(printf '%s' "$claims" | base64url)

if [[ -n ${WX_SECRET_FILE:-} ]]; then
  # $(…) drops the newline at the file's end; the key is the rest, byte by byte.
  key=$(printf '%s' "$(<"$WX_SECRET_FILE")" | od -An -v -tx1 | tr -d ' \n')
  signature=$(printf '%s' "$signing_input" |
    openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64url)
else
  # openssl signs with Ed25519 only what lies in a file.
  scratch=$(mktemp)
  trap 'rm -f "$scratch"' EXIT
  printf '%s' "$signing_input" >"$scratch"
  signature=$(openssl pkeyutl -sign -rawin -inkey "${WX_KEY_FILE:?}" -in "$scratch" | base64url)
fi
printf '%s.%s\n' "$signing_input" "$signature"
