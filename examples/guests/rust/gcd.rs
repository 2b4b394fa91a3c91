//! call: two typed scalars in, one out.
//! `wasm-executor invoke gcd.wasm --function gcd --arg i64:1071 --arg i64:462`

#[no_mangle]
pub extern "C" fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
