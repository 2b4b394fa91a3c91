"""``module bundle``: put read-only files into a module."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stream_executor.cli.failures import CommandError
from stream_executor.cli.invocation import pair, read_module
from stream_executor.cli.options import Json  # noqa: TC001 - typer reads it
from stream_executor.cli.output import hint, print_json, say
from stream_executor.cli.reach import read_file
from stream_executor.model.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator


def bundle(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".wasm or .wat")],
    files: Annotated[
        list[str],
        typer.Option(
            "--file",
            metavar="/PATH=FILE",
            help="What the guest reads at /PATH; a folder brings all its files.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write it.")
    ],
    json: Json = False,
) -> None:
    """Put files into a module: a WASI command reads them, its digest covers them."""
    from stream_executor.sandbox.bundle import bundle as put

    content: dict[str, bytes] = {}
    for name, source in map(pair, files):
        for path, at in _expand(name, Path(source)):
            if path in content:
                raise CommandError("USAGE", f"{path} is given twice")
            content[path] = read_file(at)
    try:
        bundled = put(read_module(file), content)
    except MalformedError as error:
        raise CommandError(
            "REFUSED", "the files do not go into this module", cause=str(error)
        ) from error
    try:
        output.write_bytes(bundled)
    except OSError as error:
        raise CommandError("REFUSED", f"{output}: {error.strerror}") from error
    digest = sha256(bundled).hexdigest()
    if json:
        print_json(
            {"file": str(output), "sha256": digest, "size_bytes": len(bundled),
             "files": len(content)}
        )  # fmt: skip
        return
    say(f"{output}  {len(content)} files  {len(bundled)} bytes  sha256:{digest}")
    hint(f"  then: wasm-executor module publish {output}")


def _expand(name: str, source: Path) -> Iterator[tuple[str, Path]]:
    """Give each file with its path in the guest; a folder's in the names' order."""
    if not source.is_dir():
        yield name, source
        return
    for path in sorted(source.rglob("*")):
        if path.is_file():
            yield f"{name.rstrip('/')}/{path.relative_to(source).as_posix()}", path
