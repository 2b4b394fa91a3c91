;; Bytes in, bytes out: ASCII letters become capitals.
;;   wasm-executor invoke examples/modules/upper.wat --input FILE
;;
;; The `bytes` ABI: `alloc(length)` gives the address where the host writes the input;
;; `run(address, length)` gives the output as (address << 32) | length.
(module
  (memory (export "memory") 1)

  (func (export "alloc") (param $length i32) (result i32)
    (local $missing i32)
    ;; The input begins at address 0: grow the memory until it fits.
    (local.set $missing
      (i32.sub
        (i32.shr_u (i32.add (local.get $length) (i32.const 65535)) (i32.const 16))
        (memory.size)))
    (if (i32.gt_s (local.get $missing) (i32.const 0))
      (then (if (i32.eq (memory.grow (local.get $missing)) (i32.const -1))
        (then unreachable))))
    (i32.const 0))

  (func (export "run") (param $at i32) (param $length i32) (result i64)
    (local $here i32) (local $end i32) (local $letter i32)
    (local.set $here (local.get $at))
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $here) (local.get $end)))
        (local.set $letter (i32.load8_u (local.get $here)))
        (if (i32.and
              (i32.ge_u (local.get $letter) (i32.const 97))    ;; a
              (i32.le_u (local.get $letter) (i32.const 122)))  ;; z
          (then (i32.store8 (local.get $here)
            (i32.sub (local.get $letter) (i32.const 32)))))
        (local.set $here (i32.add (local.get $here) (i32.const 1)))
        (br $next)))
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
      (i64.extend_i32_u (local.get $length)))))
