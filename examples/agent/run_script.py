"""A tool for an AI agent: run a script in the sandbox, get what it prints.

    run_script.py --schema                    the tool, as function calling wants it
    run_script.py CREDENTIALS < call.json     one call's arguments in, its answer out

The model sees `TOOL` and answers with a call; the call's arguments, a JSON text that a
model wrote, go to `answer`, and what it gives goes back to the model. A mistake of the
model is an answer, too, so that it can mend it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from stream_executor import ExecutorClient
from stream_executor.client.errors import ResultTimeoutError

# The interpreters that this deployment has published: docs/module-abi.md, Interpreters.
LANGUAGES = {
    "javascript": ("quickjs@1", ["qjs", "--std", "/script"]),
    "lua": ("lua@1", ["lua", "/script"]),
    "python": ("python@1", ["python", "/script"]),
}
MOST_TEXT = 16_000  # characters of one stream that the model gets to read

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "run_script",
        "description": (
            "Run a script in a sandbox and give what it printed. It has no network, no "
            "files and no clock; each call begins anew. JavaScript: console.log "
            "prints, std.in.readAsString() reads the data. Lua: print, io.read('a'). "
            "Python 3.12 with its standard library."
        ),
        "parameters": {
            "type": "object",
            "properties": {
                "language": {"type": "string", "enum": [*LANGUAGES]},
                "script": {"type": "string", "description": "The whole program."},
                "data": {
                    "type": "string",
                    "description": "Standard input of the script.",
                },
            },
            "required": ["language", "script"],
            "additionalProperties": False,
        },
    },
}


async def answer(client: ExecutorClient, arguments: str) -> dict[str, Any]:
    """Run what a model asked for; give what it is told.

    Args:
        client: of the agent: its issuer and subject are who the audit log names.
        arguments: the call's arguments as the model wrote them.
    """
    try:
        asked = json.loads(arguments)
        language, script = asked["language"], asked["script"]
        data = asked.get("data", "")
        module, argv = LANGUAGES[language]
        files, stdin = {"/script": script.encode()}, data.encode()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {"ok": False, "error": f"arguments: {type(error).__name__}: {error}"}
    try:
        result = await client.execute(module, argv=argv, stdin=stdin, files=files)
    except ResultTimeoutError as late:  # it may still run; asking again runs it again
        return {"ok": False, "error": str(late)}
    return {
        "ok": result.ok,
        # An exit code is the script's own affair; other codes say what stopped it.
        "error": None if result.ok else f"{result.code}: {result.message}",
        "exit_code": result.exit_code,
        "stdout": _text(result.stdout),
        "stderr": _text(result.stderr),
        "request": result.position,  # for `audit verify` and `request show`
    }


def _text(stream: bytes) -> str:
    text = stream.decode(errors="replace")
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "…"


async def main(credentials: str) -> None:
    """Answer one call."""
    async with ExecutorClient(credentials=credentials) as client:
        print(json.dumps(await answer(client, sys.stdin.read())))


if __name__ == "__main__":
    if sys.argv[1] == "--schema":
        print(json.dumps(TOOL, indent=2))
    else:
        asyncio.run(main(sys.argv[1]))
