//! bytes: a UTF-8 text in capitals, which may be longer than it was.
//! `wasm-executor invoke upper.wasm --input FILE`

#[no_mangle]
pub extern "C" fn alloc(length: usize) -> *mut u8 {
    Box::leak(vec![0; length].into_boxed_slice()).as_mut_ptr()
}

/// # Safety
/// The executor gives what `alloc` gave, filled.
#[no_mangle]
pub unsafe extern "C" fn run(input: *const u8, length: usize) -> u64 {
    let text = std::str::from_utf8(std::slice::from_raw_parts(input, length))
        .expect("the input is UTF-8"); // else a trap
    let output = text.to_uppercase().into_bytes().leak(); // dies with the instance
    (output.as_ptr() as u64) << 32 | output.len() as u64
}
