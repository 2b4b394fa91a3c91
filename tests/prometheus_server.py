"""A real Prometheus that scrapes what a test names, every second."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.deployment import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ALERTS = Path(__file__).parents[1] / "deploy" / "prometheus" / "alerts.yml"
_CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{alerts}]
scrape_configs:
  - job_name: wasm-executor
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


@dataclass
class Prometheus:
    """Its HTTP interface."""

    address: str

    def get(self, path: str, **parameters: object) -> Any:
        """Ask for one document; an error of Prometheus's is raised with its text."""
        address = f"{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def query(self, expression: str, at_s: float | None = None) -> dict[str, float]:
        """Evaluate; give values by their labels, written as one text each."""
        when = {} if at_s is None else {"time": at_s}
        answer = self.get("/api/v1/query", query=expression, **when)
        assert answer["data"]["resultType"] == "vector", expression
        return {
            ",".join(f"{k}={v}" for k, v in sorted(row["metric"].items())): float(
                row["value"][1]
            )
            for row in answer["data"]["result"]
        }

    def value(self, expression: str, at_s: float | None = None) -> float:
        """Evaluate what gives exactly one series."""
        (value,) = self.query(expression, at_s).values()
        return value


@contextmanager
def prometheus(folder: Path, port: int) -> Iterator[Prometheus]:
    """Run it until the block ends; ready when this returns."""
    config, own = folder / "prometheus.yml", free_port()
    config.write_text(_CONFIG.format(alerts=ALERTS, port=port))
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [  # noqa: S607 - Debian's
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{own}",
            ],
            stdout=log,
            stderr=log,
        )
    server = Prometheus(f"http://127.0.0.1:{own}")
    ready = f"{server.address}/-/ready"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(ready, timeout=10).close()  # noqa: S310
                break
            except OSError:
                text = (folder / "prometheus.log").read_text()
                assert process.poll() is None, text
                assert time.monotonic() < until, text
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait()
