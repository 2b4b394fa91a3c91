"""Random modules, by seed: valid, bounded by fuel, and fond of what could differ.

Floats with NaN payloads and relaxed SIMD, divisions and conversions that trap, loads
and stores at any address, growing memory, recursion, loops that only fuel ends.
"""

from __future__ import annotations

from random import Random
from typing import Final

TYPES: Final = ("i32", "i64", "f32", "f64")
LOCALS = 3  # of each type; f and g take one parameter of each type
_INTEGER = [
    "add",
    "sub",
    "mul",
    "and",
    "or",
    "xor",
    "shl",
    "shr_s",
    "shr_u",
    "rotl",
    "rotr",
    "div_s",
    "div_u",
    "rem_s",
    "rem_u",
]
_FLOAT = ["add", "sub", "mul", "div", "min", "max", "copysign"]
_COMPARE = {
    "i": ["eq", "ne", "lt_s", "lt_u", "gt_s", "ge_u"],
    "f": ["eq", "ne", "lt", "gt", "le", "ge"],
}
_UNARY = {
    "i32": ["clz", "ctz", "popcnt", "extend8_s", "extend16_s"],
    "i64": ["clz", "ctz", "popcnt", "extend8_s", "extend32_s"],
    "f32": ["abs", "neg", "sqrt", "ceil", "floor", "trunc", "nearest"],
    "f64": ["abs", "neg", "sqrt", "ceil", "floor", "trunc", "nearest"],
}
_CONVERT = {
    "i32": ("i32.wrap_i64 i64", "i32.trunc_f64_s f64", "i32.trunc_sat_f32_u f32",
            "i32.reinterpret_f32 f32"),
    "i64": ("i64.extend_i32_s i32", "i64.extend_i32_u i32", "i64.trunc_f32_s f32",
            "i64.trunc_sat_f64_s f64", "i64.reinterpret_f64 f64"),
    "f32": ("f32.convert_i64_u i64", "f32.demote_f64 f64", "f32.reinterpret_i32 i32"),
    "f64": ("f64.convert_i64_s i64", "f64.promote_f32 f32", "f64.reinterpret_i64 i64"),
}  # fmt: skip
_RELAXED = ("f32x4.relaxed_madd", "f32x4.relaxed_nmadd")


class _Writer:
    """Writes one module's text."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def constant(self, kind: str) -> str:
        choice = self.random.choice
        if kind in ("i32", "i64"):
            bits = 32 if kind == "i32" else 64
            value = choice([0, 1, 2, -1, 65532, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)),
                            self.random.getrandbits(bits - 1)])  # fmt: skip
            return f"({kind}.const {value})"
        payload = "nan:0x200001" if kind == "f32" else "nan:0x4000000000001"
        value = choice(["0", "-0", "1.5", "-2.25e10", "inf", "-inf", "nan", payload,
                        repr(self.random.uniform(-1e6, 1e6))])  # fmt: skip
        return f"({kind}.const {value})"

    def expression(self, kind: str, depth: int) -> str:  # noqa: C901, PLR0911 - one a shape
        random = self.random
        if depth <= 0:
            if random.random() < 0.5:
                return self.constant(kind)
            return f"(local.get ${kind}_{random.randrange(LOCALS)})"

        def part(of: str) -> str:
            return self.expression(of, depth - random.randint(1, 2))

        integer = kind.startswith("i")
        match random.randrange(9):
            case 0:
                return f"({kind}.{random.choice(_UNARY[kind])} {part(kind)})"
            case 1:
                operator, _, source = random.choice(_CONVERT[kind]).partition(" ")
                if "trunc_f" in operator and random.random() < 0.9:
                    operator = operator.replace("trunc_f", "trunc_sat_f")
                return f"({operator} {part(source)})"
            case 2 if kind == "i32":
                of = random.choice(TYPES)
                return f"({of}.{random.choice(_COMPARE[of[0]])} {part(of)} {part(of)})"
            case 2 if kind == "f32":
                lanes = "".join(f"(f32x4.splat {part('f32')})" for _ in range(3))
                operator = random.choice(_RELAXED)
                lane = random.randrange(4)
                return f"(f32x4.extract_lane {lane} ({operator} {lanes}))"
            case 3:
                anywhere = random.random() < 0.05
                return f"({kind}.load {self.address(part('i32'), anywhere=anywhere)})"
            case 4:
                return f"(select {part(kind)} {part(kind)} {part('i32')})"
            case 5 if kind == "i64" and random.random() < 0.3:
                arguments = " ".join(part(of) for of in TYPES)
                return f"(call ${random.choice('fg')} {arguments})"
            case _:
                operator = random.choice(_INTEGER if integer else _FLOAT)
                right = part(kind)
                if operator[:3] in ("div", "rem") and random.random() < 0.95:
                    right = (
                        f"({kind}.or {right} ({kind}.const 3))" if integer else right
                    )
                return f"({kind}.{operator} {part(kind)} {right})"

    @staticmethod
    def address(value: str, *, anywhere: bool = False) -> str:
        """Give an address inside of the first page, or any."""
        return value if anywhere else f"(i32.and {value} (i32.const 0xfff8))"

    def statement(self, depth: int) -> str:
        random = self.random
        kind = random.choice(TYPES)
        value = self.expression(kind, depth)
        match random.randrange(6):
            case 0:
                return (
                    f"({kind}.store {self.address(self.expression('i32', 1))} {value})"
                )
            case 1:
                grown = "(memory.grow (i32.and (i32.const 3) (local.get $i32_0)))"
                return f"(local.set $i32_1 {grown})"
            case 2:
                inner = self.statement(depth - 1) if depth > 1 else ""
                again = self.expression("i32", 2)
                return f"(loop {inner} (br_if 0 {again}))"
            case _:
                return f"(local.set ${kind}_{random.randrange(LOCALS)} {value})"

    def function(self, name: str) -> str:
        params = " ".join(f"(param ${kind}_0 {kind})" for kind in TYPES)
        rest = " ".join(
            f"(local ${kind}_{n} {kind})" for kind in TYPES for n in range(1, LOCALS)
        )
        body = " ".join(
            self.statement(self.random.randint(1, 5))
            for _ in range(self.random.randint(2, 8))
        )
        result = self.expression("i64", 4)
        head = f'(func ${name} (export "{name}") {params} (result i64) {rest}'
        return f"{head} {body} {result})"


def random_module(seed: int) -> str:
    """Give the WAT of a module that exports ``f`` and ``g`` of all four types."""
    writer = _Writer(Random(seed))  # noqa: S311 - chance by seed
    start = "(start $s)" if writer.random.random() < 0.3 else ""
    return f"""(module (memory (export "memory") 1)
      (data (i32.const 64) "{"".join(writer.random.choices("abcdef", k=200))}")
      (func $s (i32.store (i32.const 8) (i32.const {writer.random.getrandbits(20)})))
      {start} {writer.function("f")} {writer.function("g")})"""
