// Sign one request with the Java platform alone (17 or newer); prints the token.
//
//   java Sign.java TOPIC PARTITION VALUE_FILE
//
// Environment: WX_ISSUER, WX_SUBJECT, WX_AUDIENCE; and WX_SECRET_FILE (HS256) or
// WX_KEY_FILE with WX_KID (Ed25519 private key, PKCS 8 PEM). See docs/signing.md.

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.security.Signature;
import java.security.spec.PKCS8EncodedKeySpec;
import java.time.Instant;
import java.util.Base64;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public final class Sign {

    public static void main(String[] args) throws Exception {
        String topic = args[0];
        int partition = Integer.parseInt(args[1]);
        byte[] value = Files.readAllBytes(Path.of(args[2]));

        String digest = base64url(MessageDigest.getInstance("SHA-256").digest(value));
        byte[] jti = new byte[18];
        new SecureRandom().nextBytes(jti);
        long now = Instant.now().getEpochSecond();
        String claims = """
            {"iss":%s,"sub":%s,"aud":%s,"iat":%d,"exp":%d,"jti":%s,"role":"Agent",\
            "wx":{"v":1,"topic":%s,"partition":%d,"body_s256":%s}}""".formatted(
            quoted(env("WX_ISSUER")), quoted(env("WX_SUBJECT")), quoted(env("WX_AUDIENCE")),
            now, now + 120, quoted(base64url(jti)), quoted(topic), partition, quoted(digest));

        String secretFile = System.getenv("WX_SECRET_FILE");
        String header = secretFile != null
            ? "{\"alg\":\"HS256\",\"typ\":\"JWT\"}"
            : "{\"alg\":\"EdDSA\",\"kid\":%s,\"typ\":\"JWT\"}".formatted(quoted(env("WX_KID")));
        String signingInput = segment(header) + "." + segment(claims);
        byte[] signature = secretFile != null
            ? hmac(secretFile, signingInput)
            : ed25519(env("WX_KEY_FILE"), signingInput);
        System.out.println(signingInput + "." + base64url(signature));
    }

    private static byte[] hmac(String secretFile, String input) throws Exception {
        String secret = Files.readString(Path.of(secretFile)).replaceAll("[\r\n]+$", "");
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(utf8(secret), "HmacSHA256"));
        return mac.doFinal(utf8(input));
    }

    private static byte[] ed25519(String keyFile, String input) throws Exception {
        String pem = Files.readString(Path.of(keyFile));
        String body = pem.replaceAll("-----[A-Z ]+-----", "").replaceAll("\\s", "");
        var spec = new PKCS8EncodedKeySpec(Base64.getDecoder().decode(body));
        Signature signature = Signature.getInstance("Ed25519");
        signature.initSign(KeyFactory.getInstance("Ed25519").generatePrivate(spec));
        signature.update(utf8(input));
        return signature.sign();
    }

    // The platform has no JSON writer; this is all of it that a claim needs.
    private static String quoted(String text) {
        var json = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                json.append('\\').append(c);
            } else if (c < 0x20) {
                json.append("\\u%04x".formatted((int) c));
            } else {
                json.append(c);
            }
        }
        return json.append('"').toString();
    }

    private static String env(String name) throws GeneralSecurityException {
        String value = System.getenv(name);
        if (value == null) {
            throw new GeneralSecurityException(name + " is not set");
        }
        return value;
    }

    private static String segment(String json) {
        return base64url(utf8(json));
    }

    private static String base64url(byte[] data) {
        return Base64.getUrlEncoder().withoutPadding().encodeToString(data);
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
