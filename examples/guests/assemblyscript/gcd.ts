// call: two typed scalars in, one out.
//   wasm-executor invoke gcd.wasm --function gcd --arg i64:1071 --arg i64:462
export function gcd(a: u64, b: u64): u64 {
  while (b != 0) {
    const rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}
