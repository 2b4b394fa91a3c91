"""What to run and with what: options of ``submit`` and ``invoke`` as one request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stream_executor.cli.failures import CommandError
from stream_executor.cli.options import shared
from stream_executor.cli.reach import read_file
from stream_executor.cli.templates import TEMPLATES
from stream_executor.model.request import DIGEST_PREFIX

if TYPE_CHECKING:
    from stream_executor.model.request import ExecutionRequest, RequestedLimits

_CALL, _BYTES, _WASI = "A call", "A bytes module", "A WASI command"
_SUFFIXES = (".wasm", ".wat", "")
_WASM = b"\0asm"

ModuleArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE", help="name@version, sha256:DIGEST, or a FILE (.wasm or .wat)."
    ),
]


def _option(text: str, *names: str, metavar: str, panel: str | None = None) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel)


_OPTIONS: dict[str, Any] = {
    "function": Annotated[
        str | None,
        _option("Export to call.", "--function", metavar="NAME", panel=_CALL),
    ],
    "args": Annotated[
        list[str] | None,
        _option(
            "Argument: i32:2, i64:…, f32:…, f64:…; repeat it.",
            "--arg", metavar="TYPE:VALUE", panel=_CALL,
        ),
    ],
    "input": Annotated[
        Path | None,
        _option("Input bytes; - is stdin.", "--input", metavar="FILE", panel=_BYTES),
    ],
    "stdin": Annotated[
        Path | None,
        _option("Standard input; - is ours.", "--stdin", metavar="FILE", panel=_WASI),
    ],
    "argv": Annotated[
        list[str] | None,
        _option(
            "Argument of the command, its name first; repeat it.",
            "--argv", metavar="TEXT", panel=_WASI,
        ),
    ],
    "env": Annotated[
        list[str] | None,
        _option(
            "Environment variable; repeat it.",
            "--env", metavar="NAME=VALUE", panel=_WASI,
        ),
    ],
    "files": Annotated[
        list[str] | None,
        _option(
            "Read-only file for the guest; repeat it.",
            "--file", metavar="/PATH=FILE", panel=_WASI,
        ),
    ],
    "fuel": Annotated[
        int | None, _option("Lower fuel limit.", "--fuel", metavar="UNITS")
    ],
    "memory": Annotated[
        int | None, _option("Lower memory limit.", "--memory", metavar="BYTES")
    ],
    "deadline": Annotated[
        float | None, _option("Lower deadline.", "--deadline", metavar="SECONDS")
    ],
    "start_within": Annotated[
        float | None,
        _option("Do not start later than this.", "--start-within", metavar="SECONDS"),
    ],
    "request_id": Annotated[
        str | None,
        _option("Your own id; made up otherwise.", "--request-id", metavar="ID"),
    ],
}  # fmt: skip


@dataclass
class Asked:
    """An invocation as the command line says it."""

    function: str | None = None
    args: list[str] | None = None
    input: Path | None = None
    stdin: Path | None = None
    argv: list[str] | None = None
    env: list[str] | None = None
    files: list[str] | None = None
    fuel: int | None = None
    memory: int | None = None
    deadline: float | None = None
    start_within: float | None = None
    request_id: str | None = None

    def request(self, module: str | bytes) -> ExecutionRequest:
        """Give the request; without any option a module is run as a command.

        Args:
            module: a reference as on the command line (``reference``), or bytes.

        Raises:
            CommandError, ArgumentError: it makes no request.
        """
        if self.args and self.function is None:
            raise CommandError(
                "USAGE",
                "--arg needs --function NAME",
                cause="a WASI command takes --argv, a bytes module --input",
            )
        from stream_executor.client.client import request_of
        from stream_executor.client.values import parse_argument

        wasi = self.stdin or self.argv or self.env or self.files
        if self.function is None and self.input is None and not wasi:
            self.argv = []
        return request_of(
            module,
            function=self.function,
            args=[parse_argument(text) for text in self.args or ()],
            input=None if self.input is None else read_file(self.input),
            stdin=None if self.stdin is None else read_file(self.stdin),
            argv=self.argv,
            env=None if self.env is None else dict(map(pair, self.env)),
            files=None
            if self.files is None
            else {n: read_file(Path(v)) for n, v in map(pair, self.files)},
            limits=self._limits(),
            request_id=self.request_id,
            start_within_s=self.start_within,
        )

    def _limits(self) -> RequestedLimits | None:
        from stream_executor.model.request import RequestedLimits

        if (self.fuel, self.memory, self.deadline) == (None, None, None):
            return None
        deadline_ms = None if self.deadline is None else round(self.deadline * 1000)
        return RequestedLimits(self.fuel, self.memory, deadline_ms)


with_invocation = shared("asked", Asked, _OPTIONS)


def read_module(path: Path) -> bytes:
    """Read a module from a file; text (.wat) is assembled here.

    Raises:
        CommandError: no such file, or neither binary nor good text.
    """
    data = read_file(path)
    if data.startswith(_WASM):
        return data
    from stream_executor.sandbox.text import assemble

    try:
        return assemble(data.decode())
    except ValueError as error:
        raise _no_module(path, data, error) from error


def _no_module(path: Path, data: bytes, error: ValueError) -> CommandError:
    if path.suffix.lower() not in _SUFFIXES:
        of_suffix = {f".{row.suffix}": lang for lang, row in TEMPLATES.items()}
        lang = of_suffix.get(path.suffix.lower(), "c")
        return CommandError(
            "REFUSED",
            f"{path} is no WebAssembly: compile it, and give the .wasm",
            remedy=f"wasm-executor module new NAME --lang {lang}, which tells how",
        )
    if isinstance(error, UnicodeDecodeError):
        return CommandError(
            "REFUSED",
            f"{path} is no WebAssembly module",
            cause=f"a binary begins 00 61 73 6d, this file {data[:4].hex(' ')}",
        )
    return CommandError(
        "REFUSED",
        f"{path} is no WebAssembly text",
        cause=str(error).strip(),
        remedy="give a .wasm binary, or mend the text",
    )


def reference(module: str) -> str | bytes:
    """Tell a published module's name from a file: give the name, or the file's bytes.

    Raises:
        CommandError: it is neither.
    """
    path = Path(module)
    if path.is_file():
        return read_module(path)
    if module.startswith(DIGEST_PREFIX) or ("@" in module and "/" not in module):
        return module
    raise CommandError(
        "NOT_FOUND",
        f"{module[:80]!r} is no file and no module's name",
        cause="a published module is name@version or sha256:<64 hex digits>",
        remedy="wasm-executor module list",
    )


def pair(text: str) -> tuple[str, str]:
    """Split ``NAME=VALUE``."""
    name, separator, value = text.partition("=")
    if not separator:
        raise CommandError("USAGE", f"expected NAME=VALUE, got {text[:80]!r}")
    return name, value
