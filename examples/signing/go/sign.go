// Sign one request with Go's standard library; prints the token.
//
//	go run sign.go TOPIC PARTITION VALUE_FILE
//
// Environment: WX_ISSUER, WX_SUBJECT, WX_AUDIENCE; and WX_SECRET_FILE (HS256) or
// WX_KEY_FILE with WX_KID (Ed25519 private key, PKCS 8 PEM). See docs/signing.md.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"
)

type binding struct {
	V         int    `json:"v"`
	Topic     string `json:"topic"`
	Partition int    `json:"partition"`
	BodyS256  string `json:"body_s256"`
}

type claims struct {
	Iss  string  `json:"iss"`
	Sub  string  `json:"sub"`
	Aud  string  `json:"aud"`
	Iat  int64   `json:"iat"`
	Exp  int64   `json:"exp"`
	Jti  string  `json:"jti"`
	Role string  `json:"role"`
	Wx   binding `json:"wx"`
}

type header struct {
	Alg string `json:"alg"`
	Kid string `json:"kid,omitempty"`
	Typ string `json:"typ"`
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: sign TOPIC PARTITION VALUE_FILE")
	}
	partition, err := strconv.Atoi(os.Args[2])
	check(err)
	value, err := os.ReadFile(os.Args[3])
	check(err)
	digest := sha256.Sum256(value)
	jti := make([]byte, 18)
	_, err = rand.Read(jti)
	check(err)
	now := time.Now().Unix()
	body := claims{
		os.Getenv("WX_ISSUER"), os.Getenv("WX_SUBJECT"), os.Getenv("WX_AUDIENCE"),
		now, now + 120, base64url(jti), "Agent",
		binding{1, os.Args[1], partition, base64url(digest[:])},
	}

	var signingInput string
	var signature []byte
	if file := os.Getenv("WX_SECRET_FILE"); file != "" {
		secret, err := os.ReadFile(file)
		check(err)
		signingInput = segment(header{Alg: "HS256", Typ: "JWT"}) + "." + segment(body)
		mac := hmac.New(sha256.New, bytes.TrimRight(secret, "\r\n"))
		mac.Write([]byte(signingInput))
		signature = mac.Sum(nil)
	} else {
		key := privateKey(os.Getenv("WX_KEY_FILE"))
		head := header{Alg: "EdDSA", Kid: os.Getenv("WX_KID"), Typ: "JWT"}
		signingInput = segment(head) + "." + segment(body)
		signature = ed25519.Sign(key, []byte(signingInput))
	}
	fmt.Println(signingInput + "." + base64url(signature))
}

func privateKey(file string) ed25519.PrivateKey {
	document, err := os.ReadFile(file)
	check(err)
	block, _ := pem.Decode(document)
	if block == nil {
		log.Fatalf("%s is not PEM", file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	check(err)
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		log.Fatalf("%s is not an Ed25519 key", file)
	}
	return key
}

func segment(value any) string {
	text, err := json.Marshal(value)
	check(err)
	return base64url(text)
}

func base64url(data []byte) string {
	return base64.RawURLEncoding.EncodeToString(data)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
