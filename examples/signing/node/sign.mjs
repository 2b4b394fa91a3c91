// Sign one request with Node's own crypto module; prints the token.
//
//   node sign.mjs TOPIC PARTITION VALUE_FILE
//
// Environment: WX_ISSUER, WX_SUBJECT, WX_AUDIENCE; and WX_SECRET_FILE (HS256) or
// WX_KEY_FILE with WX_KID (Ed25519 private key, PKCS 8 PEM). See docs/signing.md.

import { createHash, createHmac, createPrivateKey, randomBytes, sign } from "node:crypto";
import { readFileSync } from "node:fs";

const [topic, partition, valueFile] = process.argv.slice(2);
const { WX_ISSUER, WX_SUBJECT, WX_AUDIENCE, WX_SECRET_FILE, WX_KEY_FILE, WX_KID } =
  process.env;

const now = Math.floor(Date.now() / 1000);
const claims = {
  iss: WX_ISSUER,
  sub: WX_SUBJECT,
  aud: WX_AUDIENCE,
  iat: now,
  exp: now + 120,
  jti: randomBytes(18).toString("base64url"),
  role: "Agent",
  wx: {
    v: 1,
    topic,
    partition: Number(partition),
    body_s256: createHash("sha256").update(readFileSync(valueFile)).digest("base64url"),
  },
};
const header = WX_SECRET_FILE
  ? { alg: "HS256", typ: "JWT" }
  : { alg: "EdDSA", kid: WX_KID, typ: "JWT" };

const segment = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const signingInput = `${segment(header)}.${segment(claims)}`;

function signature() {
  if (WX_SECRET_FILE) {
    const secret = readFileSync(WX_SECRET_FILE, "utf8").replace(/[\r\n]+$/, "");
    return createHmac("sha256", secret).update(signingInput).digest();
  }
  const key = createPrivateKey(readFileSync(WX_KEY_FILE));
  return sign(null, Buffer.from(signingInput), key);
}

console.log(`${signingInput}.${signature().toString("base64url")}`);
