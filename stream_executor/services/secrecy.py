"""What keeps a process's secrets in its memory: no core dump, no reading by others.

For processes that hold keys. Sandbox children, which hold none, do the same for the
guests' sake (``sandbox.harden``).
"""

from __future__ import annotations

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4  # linux/prctl.h


def seal_memory() -> None:
    """Forbid core dumps of this process and of what it starts, for good.

    On Linux also its ``/proc`` files and ptrace, for everybody but root: a process of
    the same user could else read keys from ``/proc/PID/mem`` or ``environ``. Source:
    PR_SET_DUMPABLE in prctl(2), RLIMIT_CORE in getrlimit(2); exec undoes the first.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
