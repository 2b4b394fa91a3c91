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
    from collections.abc import Callable, Mapping

    from stream_executor.model.record import Record


def plain_runs(
    modules: Mapping[str, str], fuel_units: int
) -> Callable[[Record], Outcome | None]:
    """Give the function that runs a request's call of an i32 function by itself.

    It gives None for what is no JSON call of one of these modules: what becomes of
    such records is for other tests to say.

    Args:
        modules: ``name@version`` to WAT.
        fuel_units: what a run may use.
    """
    config = wasmtime.Config()
    config.consume_fuel = True
    engine = wasmtime.Engine(config)
    compiled = {
        name: wasmtime.Module(engine, bytes(wasmtime.wat2wasm(wat)))
        for name, wat in modules.items()
    }

    def run(record: Record) -> Outcome | None:
        try:
            request = json.loads(record.value or b"")
            module = compiled[request["module"]]
            call = request["invocation"]
            numbers = [int(argument["i32"]) for argument in call["args"]]
        except (ValueError, KeyError, TypeError):
            return None
        store = wasmtime.Store(engine)
        store.set_fuel(fuel_units)
        function = wasmtime.Instance(store, module, []).exports(store)[call["function"]]
        assert isinstance(function, wasmtime.Func)
        answer = function(store, *numbers)
        output = pack_value(ValueType.I32, answer)
        return Outcome("SUCCEEDED", None, output, fuel_units - store.get_fuel())

    return run
