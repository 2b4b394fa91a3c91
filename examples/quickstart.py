"""Ask for three executions from Python; needs `wasm-executor dev` and its credentials.

python examples/quickstart.py /path/to/credentials.json
"""

from __future__ import annotations

import asyncio
import sys

from stream_executor import ExecutorClient, call


async def main(credentials: str) -> None:
    """Run one call, then a thousand."""
    async with ExecutorClient(credentials=credentials) as client:
        result = await client.execute("add@1", function="add", args=[2, 3])
        print(result.value, f"{result.fuel_consumed} fuel", result.position)

        refused = await client.execute("add@1", function="subtract", args=[2, 3])
        print(refused.ok, refused.code)

        submissions = await client.submit_many(
            call("add@1", "add", [n, 1]) for n in range(1_000)
        )
        total = 0
        async for _, answer in client.results(submissions):
            total += int(answer.raise_for_status().value or 0)
        print(total)  # 1 + 2 + … + 1,000


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
