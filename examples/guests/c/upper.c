/* bytes: ASCII letters become capitals. Without a C library, so without imports.
   wasm-executor invoke upper.wasm --input FILE */
#include <stdint.h>

#define PAGE 65536
extern uint8_t __heap_base; /* the linker's: memory behind data and stack */

__attribute__((export_name("alloc"))) uint8_t *alloc(uint32_t length) {
    uint64_t end = (uint64_t)(uintptr_t)&__heap_base + length;
    uint64_t pages = (end + PAGE - 1) / PAGE, have = __builtin_wasm_memory_size(0);
    if (pages > have && __builtin_wasm_memory_grow(0, pages - have) == (uint32_t)-1)
        __builtin_trap();
    return &__heap_base; /* called once: a fresh instance for each request */
}

__attribute__((export_name("run"))) uint64_t run(uint8_t *input, uint32_t length) {
    for (uint32_t at = 0; at < length; at++)
        if (input[at] >= 'a' && input[at] <= 'z') input[at] -= 'a' - 'A';
    return (uint64_t)(uintptr_t)input << 32 | length; /* in place */
}
