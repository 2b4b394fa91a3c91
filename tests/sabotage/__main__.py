"""Break one line of a copy at a time; name the test that notices; `make sabotage`.

Exit code 1 if a sabotage is not caught or no longer applies.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.sabotage.listing import SABOTAGES, Sabotage
from tests.sabotage.running import SabotageError, run


def line(sabotage: Sabotage) -> tuple[bool, str]:
    """Run one; give whether it was caught, and what to print."""
    try:
        caught = run(sabotage, sabotage.caught_by)
    except SabotageError as error:
        return False, f"ERROR   {sabotage.name}: {error}"
    if caught.by is None:
        return False, f"MISSED  {sabotage.name}"
    return True, f"caught  {sabotage.name}\n        by {caught.by}"


def main() -> int:
    """Run all that match."""
    parser = argparse.ArgumentParser(prog="python -m tests.sabotage")
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--side-by-side", type=int, default=os.cpu_count())
    given = parser.parse_args()
    wanted = [one for one in SABOTAGES if given.only in one.name]
    missed = 0
    with ThreadPoolExecutor(given.side_by_side) as pool:
        for caught, text in pool.map(line, wanted):
            missed += not caught
            print(text, flush=True)
    print(f"{len(wanted) - missed} of {len(wanted)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
