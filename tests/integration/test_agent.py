"""The example agent tool against a real deployment, as a program and as a function."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from stream_executor import ExecutorClient
from stream_executor.client.credentials import Credentials, CredentialTopics
from tests.deployment import ISSUER, TestDeployment, deployment
from tests.guest_toolchains import build, wheel_file

if TYPE_CHECKING:
    from types import ModuleType

FUEL = "--grant-fuel=1000000000"
PROGRAM = Path(__file__).parents[2] / "examples" / "agent" / "run_script.py"


def tool() -> ModuleType:
    """Import the example, which is no package."""
    spec = importlib.util.spec_from_file_location("run_script", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def credentials(made: TestDeployment) -> Path:
    """Write what `init` would hand to an agent."""
    topics = {
        name: getattr(made.topics, name) for name in made.topics.__struct_fields__
    }
    content = Credentials(
        bootstrap_servers=made.bootstrap,
        audience=made.audience,
        issuer=ISSUER,
        subject="agent-7",
        secret=made.secret,
        topics=CredentialTopics(**topics),
    )
    path = made.folder / "agent.json"
    path.write_bytes(msgspec.json.encode(content))
    path.chmod(0o600)
    return path


async def run(*arguments: str, stdin: str = "") -> dict[str, Any]:
    """Run the example as a program; give what it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(stdin.encode())
    assert process.returncode == 0
    said: dict[str, Any] = json.loads(out)
    return said


@pytest.mark.needs("cargo")
@pytest.mark.timeout(180)
async def test_an_agent_runs_scripts(kafka_bootstrap: str, tmp_path: Path) -> None:
    lua = await asyncio.to_thread(build, "lua")
    async with deployment(kafka_bootstrap, tmp_path, 1) as made:
        for name, file, *grant in (
            ("python@1", wheel_file("bin/python.wasm"), "--grant-size", FUEL),
            ("quickjs@1", wheel_file("bin/quickjs.wasm")),
            ("lua@1", lua / "lua.wasm"),
        ):
            key = str(made.folder / "keys" / "administrator.pem")
            published = await made.command(
                "module", "publish", str(file), "--name", name, "--key", key, *grant
            )
            assert published[0] == 0, published
        await made.start().ready()
        path = credentials(made)

        schema = (await run("--schema"))["function"]["parameters"]
        call = {"language": "javascript", "script": "console.log(6 * 7)"}
        assert set(schema["required"]) <= set(call) <= set(schema["properties"])
        said = await run(str(path), stdin=json.dumps(call))
        place = said.pop("request")
        assert place.startswith(f"{made.topics.requests}/0/")
        assert said == {
            "ok": True, "error": None, "exit_code": 0, "stdout": "42\n", "stderr": "",
        }  # fmt: skip

        answer = tool().answer
        async with ExecutorClient(credentials=str(path), timeout_s=120) as client:

            async def ask(**arguments: str) -> dict[str, Any]:
                said: dict[str, Any] = await answer(client, json.dumps(arguments))
                return said

            # Python last: it is still compiled when the others answer.
            for language in schema["properties"]["language"]["enum"]:
                script = {
                    "javascript": "console.log(std.in.readAsString().toUpperCase())",
                    "lua": "print(io.read('a'):upper())",
                    "python": "print(input().upper())",
                }[language]
                said = await ask(language=language, script=script, data="text")
                assert (said["ok"], said["stdout"]) == (True, "TEXT\n"), said

            said = await ask(language="lua", script="error('no such thing')")
            assert (said["ok"], said["exit_code"]) == (False, 1)
            assert "no such thing" in said["stderr"]

            said = await ask(language="lua", script="while true do end")
            assert said["error"].startswith("fuel_exhausted")

            for wrong in ("{", "[]", '{"language": "perl", "script": ""}'):
                said = await answer(client, wrong)
                assert said["error"].startswith("arguments: ")
