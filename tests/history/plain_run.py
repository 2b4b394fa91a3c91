"""What a request gives when it is run by itself, without any of our machinery.

wasmtime's public Python API, a store of its own for each run, nothing shared with
``stream_executor.sandbox``: the third opinion beside result and audit.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import wasmtime

from stream_executor.model.scalars import ValueType, pack_value
from tests.history.counting import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stream_executor.model.record import Record

_ENDS = {
    wasmtime.TrapCode.OUT_OF_FUEL: "fuel_exhausted",
    wasmtime.TrapCode.STACK_OVERFLOW: "stack_overflow",
}


class PlainRuns:
    """Runs calls of functions from i32 to i32 by themselves.

    Args:
        modules: ``name@version`` to WAT.
        fuel_units: what a run may use.
    """

    def __init__(self, modules: Mapping[str, str], fuel_units: int) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        self._engine = wasmtime.Engine(config)
        self._fuel_units = fuel_units
        self._compiled = {
            name: wasmtime.Module(self._engine, bytes(wasmtime.wat2wasm(wat)))
            for name, wat in modules.items()
        }
        self._parameters = {
            name: {
                export.name: len(export.type.params)
                for export in module.exports
                if isinstance(export.type, wasmtime.FuncType)
            }
            for name, module in self._compiled.items()
        }

    def __contains__(self, module: str) -> bool:
        """Whether there is such a module."""
        return module in self._compiled

    def run(
        self,
        module: str,
        function: str,
        numbers: Sequence[int],
        fuel_units: int | None = None,
    ) -> Outcome:
        """Give what a call ends with; ``fuel_units`` may lower what it may use."""
        parameters = self._parameters[module].get(function)
        if parameters is None:
            return Outcome("FAILED", "function_not_found")
        if parameters != len(numbers):
            return Outcome("FAILED", "bad_arguments")
        fuel = min(fuel_units or self._fuel_units, self._fuel_units)
        store = wasmtime.Store(self._engine)
        store.set_fuel(fuel)
        instance = wasmtime.Instance(store, self._compiled[module], [])
        called = instance.exports(store)[function]
        assert isinstance(called, wasmtime.Func)
        try:
            answer = called(store, *numbers)
        except wasmtime.Trap as trap:
            ended = trap.trap_code
            code = "trap" if ended is None else _ENDS.get(ended, "trap")
            used = fuel if code == "fuel_exhausted" else None  # else a lower bound
            return Outcome("FAILED", code, None, used)
        output = pack_value(ValueType.I32, answer)
        return Outcome("SUCCEEDED", None, output, fuel - store.get_fuel())


def plain_runs(
    modules: Mapping[str, str], fuel_units: int
) -> Callable[[Record], Outcome | None]:
    """Give the function that runs a JSON request's call by itself.

    It gives None for what is no JSON call of one of these modules: what becomes of
    such records ``judge`` says, or another test.
    """
    runs = PlainRuns(modules, fuel_units)

    def run(record: Record) -> Outcome | None:
        try:
            request = json.loads(record.value or b"")
            call, module = request["invocation"], request["module"]
            numbers = [int(argument["i32"]) for argument in call["args"]]
            function = call["function"]
        except (ValueError, KeyError, TypeError):
            return None
        return runs.run(module, function, numbers) if module in runs else None

    return run
