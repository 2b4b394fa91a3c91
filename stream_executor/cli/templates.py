"""What ``module new`` writes: a source file that says how to build and run itself.

Each adds two numbers, but Go's: its modules are WASI commands. The toolchain is the
user's own; WAT needs none.
"""

from __future__ import annotations

from typing import NamedTuple


class Template(NamedTuple):
    """One language.

    Attributes:
        suffix: of the source file.
        source: its text.
        build: how to make NAME.wasm; None if the source runs as it is.
        run: what to append to ``wasm-executor invoke FILE``.
    """

    suffix: str
    source: str
    build: str | None
    run: str = "--function add --arg i32:2 --arg i32:3"

    def file(self, name: str) -> str:
        """Give the source file's name."""
        return f"{name}.{self.suffix}"

    def module(self, name: str) -> str:
        """Give the file that is invoked and published."""
        return self.file(name) if self.build is None else f"{name}.wasm"

    def commands(self, name: str) -> list[str]:
        """Give the commands to build, run and publish, in order."""
        build = [] if self.build is None else [self.build.format(name=name)]
        return [
            *build,
            f"wasm-executor invoke {self.module(name)} {self.run}".rstrip(),
            f"wasm-executor module publish {self.module(name)} --name {name}@1",
        ]

    def text(self, name: str) -> str:
        """Give the source file's text."""
        return self.source.replace("{commands}", self._comments(name))

    def _comments(self, name: str) -> str:
        mark = ";;" if self.suffix == "wat" else "//"
        return "\n".join(f"{mark}   {line}" for line in self.commands(name))


TEMPLATES: dict[str, Template] = {
    "wat": Template(
        "wat",
        """;; A module in WebAssembly's own text form.
{commands}
(module
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1))))
""",
        None,
    ),
    "c": Template(
        "c",
        """// A module in C, without a C library. zig: pip install ziglang
{commands}
__attribute__((export_name("add"))) unsigned add(unsigned a, unsigned b) {
    return a + b;
}
""",
        "python3 -m ziglang cc -target wasm32-freestanding -O2 -s -nostdlib "
        "-Wl,--no-entry {name}.c -o {name}.wasm",
    ),
    "rust": Template(
        "rs",
        """// A module in Rust. The target: rustup target add wasm32-unknown-unknown
{commands}
#[no_mangle]
pub extern "C" fn add(a: i32, b: i32) -> i32 {
    a.wrapping_add(b)
}
""",
        "rustc --edition 2021 --crate-type cdylib --target wasm32-unknown-unknown "
        "-O -C strip=symbols {name}.rs -o {name}.wasm",
    ),
    "assemblyscript": Template(
        "ts",
        """// A module in AssemblyScript. The compiler: npm install assemblyscript
{commands}
export function add(a: i32, b: i32): i32 {
  return a + b;
}
""",
        "npx asc {name}.ts -o {name}.wasm -O3 --runtime stub --use abort=",
    ),
    "go": Template(
        "go",
        """// A WASI command in Go 1.21 or later: what it prints is its output.
{commands}
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(len(input), "bytes")
}
""",
        "GOOS=wasip1 GOARCH=wasm go build -trimpath -ldflags='-s -w' "
        "-o {name}.wasm {name}.go",
        "",
    ),
}
