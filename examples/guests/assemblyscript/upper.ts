// bytes: a UTF-8 text in capitals.
//   wasm-executor invoke upper.wasm --input FILE
export function alloc(length: i32): usize {
  return heap.alloc(length);
}

export function run(input: usize, length: i32): u64 {
  const text = String.UTF8.decodeUnsafe(input, length);
  const output = String.UTF8.encode(text.toUpperCase());
  return ((changetype<usize>(output) as u64) << 32) | output.byteLength;
}
