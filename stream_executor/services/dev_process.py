"""The executor of ``dev``: the real service, tied to the life of the ``dev`` command.

``python -m stream_executor.services.dev_process PID`` is ``wasm-executor run`` that the
kernel kills when process PID ends, however that happens.
"""

from __future__ import annotations

import sys

from stream_executor.model.errors import ConfigError
from stream_executor.services.lifeline import die_with
from stream_executor.services.supervisor import run_service
from stream_executor.settings import load

if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    try:
        code = run_service(load)
    except ConfigError as error:
        sys.exit(f"error[CONFIG]: {error}")
    sys.exit(code)
