"""Options that several commands share, declared once.

``@shared("reach", Reach, OPTIONS)`` replaces a command's parameter ``reach`` by the
options of the table and hands the command the object made from them.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Json = Annotated[
    bool, typer.Option("--json", help="Print JSON: one object, or one a line.")
]


def shared(
    parameter: str, make: Callable[..., Any], options: Mapping[str, Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give the decorator that puts ``options`` in the place of ``parameter``.

    Args:
        parameter: name of the command's parameter.
        make: makes its value from the options, given by keyword.
        options: option name to ``Annotated`` type; all are optional. A bool is a flag.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            p.replace(kind=keyword)
            for name, p in signature.parameters.items()
            if name != parameter
        ]
        parameters += [
            inspect.Parameter(
                name,
                keyword,
                default=False if annotation.__origin__ is bool else None,
                annotation=annotation,
            )
            for name, annotation in options.items()
        ]

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> Any:
            value = make(**{name: arguments.pop(name) for name in options})
            return command(**{parameter: value}, **arguments)

        # typer reads the signature; `functools.wraps` would show it the old one.
        wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=parameters
        )
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate
