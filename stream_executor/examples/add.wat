;; Two typed scalars in, one out: a `call`.
;;   wasm-executor invoke examples/modules/add.wat --function add --arg i32:2 --arg i32:3
(module
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1))))
