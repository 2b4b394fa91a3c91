"""docker-compose.yml, the Dockerfile and Prometheus' file fit together and to the code.

Nothing is started here: what can be wrong without Docker is looked at without it. If
the docker client has the compose plug-in, its own parser is asked too.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from stream_executor.embedded import KAFKA_VERSION
from stream_executor.kafka.topics import TopicNames
from stream_executor.services.ceremony import prepare_keys
from stream_executor.services.first_credentials import write_first
from stream_executor.settings import load

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
OURS = ("init", "executor")
# Made by `init` and by hand: what nobody may commit.
NOT_IN_THE_REPOSITORY = (
    "deploy/keys",
    "deploy/executor.env",
    "deploy/grafana-password",
)


def sources() -> list[tuple[str, str, str]]:
    """Give (service, source, target) of every mount."""
    return [
        (name, *volume.split(":")[:2])
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
    ]


def test_the_file_is_a_compose_file() -> None:
    schema = json.loads((ROOT / "tests" / "schemas" / "compose-spec.json").read_text())
    Draft202012Validator(schema).validate(COMPOSE)


def test_named_volumes_are_declared_and_used() -> None:
    used = {source for _, source, _ in sources() if not source.startswith("./")}

    assert used == set(COMPOSE["volumes"])


def test_what_is_mounted_from_the_repository_is_there() -> None:
    paths = [source.removeprefix("./") for _, source, _ in sources() if "/" in source]
    paths += [secret["file"] for secret in COMPOSE["secrets"].values()]
    paths += [SERVICES["executor"]["build"]["dockerfile"]]

    for path in paths:
        ignored = path.startswith(NOT_IN_THE_REPOSITORY)
        assert ignored or (ROOT / path).is_file(), path


def test_keys_are_kept_out_of_git_and_out_of_the_image() -> None:
    ignored = (ROOT / "deploy" / ".gitignore").read_text().split()

    assert {path.removeprefix("deploy/") for path in NOT_IN_THE_REPOSITORY} <= {
        line.rstrip("/") for line in ignored
    }
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_the_executor_gets_files_that_init_makes(tmp_path: Path) -> None:
    made = {path.name for path in _ceremony(tmp_path)}

    for name in SERVICES["executor"]["secrets"]:
        assert Path(COMPOSE["secrets"][name]["file"]).name in made
    command = SERVICES["init"]["command"]
    assert command == ["init", "--keys", "/keys"]


def _ceremony(folder: Path) -> list[Path]:
    """Make the files of a ceremony as `init` does, without brokers."""
    prepare_keys(folder)
    write_first(folder, "kafka:9092", "wasm-executor/test", TopicNames())
    return list(folder.iterdir())


def test_the_operator_key_never_reaches_the_executor() -> None:
    executor = SERVICES["executor"]
    files = {COMPOSE["secrets"][name]["file"] for name in executor["secrets"]}

    made = {"jwt-secret", "fleet.pem", "deployment-secret"}
    assert files == {f"deploy/keys/{name}" for name in made}
    assert not any("keys" in source for _, source, _ in sources() if _ == "executor")


def test_ports_are_published_once_and_on_this_machine_only() -> None:
    published = [p for s in SERVICES.values() for p in s.get("ports", [])]
    hosts = [port.split(":")[1] for port in published]

    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len(set(hosts)) == len(hosts)


def test_services_wait_only_for_services() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", [])) <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_services_run_without_privileges(name: str) -> None:
    service = SERVICES[name]

    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    assert service.get("read_only", False) is (name != "kafka")
    assert "privileged" not in service


@pytest.mark.parametrize("name", [n for n in SERVICES if n != "init"])
def test_services_tell_their_health_without_curl(name: str) -> None:
    command = " ".join(SERVICES[name]["healthcheck"]["test"])

    assert "curl" not in command
    assert "wget" not in command


def environment_of(name: str, folder: Path) -> dict[str, str]:
    """Give a service's environment, with files where Docker mounts its secrets."""
    secrets = {
        "jwt_secret": "m3Vw/8Qk+2nXz5TqL0rPcYd7JhG4sBfA1uE6iOoKx9I=",
        "fleet_key": "07" * 32,
        "deployment_secret": "2a" * 32,
    }
    environment = {"WASM_EXECUTOR_ENV_FILE": os.devnull}
    for key, value in SERVICES[name]["environment"].items():
        assert isinstance(value, str), f"{key}: quote it"
        path = folder / Path(value).name
        if value.startswith("/run/secrets/"):
            path.write_text(secrets[path.name] + "\n")
            environment[key] = str(path)
        else:
            environment[key] = value
    return environment


@pytest.mark.parametrize("name", OURS)
def test_the_environment_is_one_that_the_service_takes(
    name: str, tmp_path: Path
) -> None:
    settings = load(environment=environment_of(name, tmp_path))

    assert settings.kafka_properties["bootstrap.servers"] == "kafka:9092"
    # The network is Compose's own; the host's port is on the loopback address.
    noted = [note for note in settings.notes if "open to the network" not in note]
    assert not noted


def test_the_executor_lacks_only_what_executor_env_brings(tmp_path: Path) -> None:
    environment = environment_of("executor", tmp_path)
    environment["WASM_EXECUTOR_OPERATOR_PUBLIC_KEY"] = "d7" * 32
    settings = load(environment=environment)

    assert settings.missing_to_run() == []
    assert settings.require_hardening
    assert settings.http_host == "0.0.0.0"  # noqa: S104 - inside the container


def test_stopping_waits_for_the_drain(tmp_path: Path) -> None:
    settings = load(environment=environment_of("executor", tmp_path))
    grace = SERVICES["executor"]["stop_grace_period"].removesuffix("s")

    assert int(grace) >= settings.drain_seconds + 10


def test_state_and_log_lie_on_volumes_that_the_image_owns(tmp_path: Path) -> None:
    settings = load(environment=environment_of("executor", tmp_path))
    targets = {target for name, _, target in sources() if name == "executor"}

    assert targets == {str(settings.state_dir), str(settings.audit_log_path.parent)}
    for target in targets:
        assert target in DOCKERFILE


def test_prometheus_scrapes_the_port_of_the_executor(tmp_path: Path) -> None:
    settings = load(environment=environment_of("executor", tmp_path))
    file = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    jobs = yaml.safe_load(file.read_text())["scrape_configs"]
    targets = {
        job["job_name"]: target
        for job in jobs
        for group in job["static_configs"]
        for target in group["targets"]
    }

    assert targets["wasm-executor"] == f"executor:{settings.metrics_port}"
    assert f"EXPOSE {settings.metrics_port}\n" in DOCKERFILE


def test_kafka_is_the_version_that_the_tests_run_on() -> None:
    kafka = SERVICES["kafka"]

    assert kafka["image"] == f"apache/kafka:{KAFKA_VERSION}"
    listeners = kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert "INSIDE://kafka:9092" in listeners


def test_the_image_is_not_run_as_root_and_starts_the_command() -> None:
    assert re.search(r"^USER (?!0|root)\S+$", DOCKERFILE, re.MULTILINE)
    assert DOCKERFILE.rstrip().endswith('ENTRYPOINT ["wasm-executor"]')
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert all(":" in image for image in stages)


def test_the_image_copies_only_what_the_context_holds() -> None:
    allowed = (ROOT / ".dockerignore").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists()
            assert f"!{source}\n" in allowed


def test_the_image_gets_what_is_locked_and_nothing_else() -> None:
    (installed,) = re.findall(r"pip install (.+) -r requirements.lock", DOCKERFILE)
    assert {"--require-hashes", "--no-deps"} <= set(installed.split())


def test_grafana_finds_its_dashboard_and_its_source() -> None:
    mounts = {target: source for name, source, target in sources() if name == "grafana"}
    folder = "/etc/grafana/provisioning"

    def read(target: str) -> Any:
        return yaml.safe_load((ROOT / mounts[target]).read_text())

    (provider,) = read(f"{folder}/dashboards/wasm-executor.yml")["providers"]
    assert f"{provider['options']['path']}/wasm-executor.json" in mounts
    (source,) = read(f"{folder}/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES


def test_prometheus_gets_the_rules_that_its_file_names() -> None:
    file = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    mounts = {target for name, _, target in sources() if name == "prometheus"}

    for name in yaml.safe_load(file.read_text())["rule_files"]:
        assert f"/etc/prometheus/{name}" in mounts
