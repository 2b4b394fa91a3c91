/* call: two typed scalars in, one out.
   wasm-executor invoke gcd.wasm --function gcd --arg i64:1071 --arg i64:462 */
#include <stdint.h>

__attribute__((export_name("gcd"))) uint64_t gcd(uint64_t a, uint64_t b) {
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}
