"""The manifests fit to one another and to the service's own settings."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate import validate

from stream_executor import __version__
from stream_executor.http.metrics import BY_NAME
from stream_executor.settings import load

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
SCHEMAS = Path(__file__).parents[2] / "schemas"
OBJECTS: dict[str, Any] = {
    file.stem: yaml.safe_load(file.read_text(encoding="utf-8"))
    for file in sorted(FOLDER.glob("*.yaml"))
}
POD = OBJECTS["statefulset"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def test_the_list_names_every_manifest() -> None:
    listed = {Path(name).stem for name in OBJECTS["kustomization"]["resources"]}

    assert listed == set(OBJECTS) - {"kustomization"}


@pytest.mark.parametrize("name", sorted(set(OBJECTS) - {"kustomization", "scaling"}))
def test_kubernetes_knows_every_field(name: str) -> None:
    validate(OBJECTS[name], "1.37", strict=True)


@pytest.mark.needs("kubectl")
def test_kustomize_knows_every_field_and_leaves_nothing_out() -> None:
    """As `kubectl apply -k` would; a field that it does not know is an error."""
    built = subprocess.check_output(["kubectl", "kustomize", FOLDER])  # noqa: S607
    made = {each["kind"]: each for each in yaml.safe_load_all(built)}

    assert set(made) == {each["kind"] for each in OBJECTS.values()} - {"Kustomization"}
    spaces = {made[kind]["metadata"].get("namespace") for kind in made}
    assert spaces == {None, "wasm-executor"}  # the namespace itself lies in none
    (container,) = made["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"wasm-executor:{__version__}"


def test_keda_knows_every_field() -> None:
    crd = yaml.safe_load((SCHEMAS / "keda.sh_scaledobjects.yaml").read_text())
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1alpha1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    # Every object has it, and the API server knows it without the definition.
    schema["properties"]["metadata"] = {"type": "object"}
    Draft202012Validator(schema).validate(OBJECTS["scaling"])


def strict(schema: Any) -> Any:
    """Refuse fields that are not named, as `kubectl --validate=strict` does."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and isinstance(schema.get("type"), str):
        made.setdefault("additionalProperties", False)
    return made


def test_the_way_to_an_issuer_can_be_opened() -> None:
    text = (FOLDER / "network.yaml").read_text(encoding="utf-8")
    opened = yaml.safe_load(re.sub(r"(?m)^    # (?=- to|  )", "    ", text))
    validate(opened, "1.37", strict=True)

    extra = opened["spec"]["egress"][-1]
    assert (
        len(opened["spec"]["egress"]) == len(OBJECTS["network"]["spec"]["egress"]) + 1
    )
    assert extra["ports"] == [{"protocol": "TCP", "port": 443}]


def test_the_settings_are_ones_that_the_service_takes(tmp_path: Path) -> None:
    secrets = {
        "jwt-secret": "m3Vw/8Qk+2nXz5TqL0rPcYd7JhG4sBfA1uE6iOoKx9I=",
        "fleet.pem": "07" * 32,
        "deployment-secret": "2a" * 32,
        "kafka-password": "a-password",
    }
    environment = dict(OBJECTS["configuration"]["data"])
    for name, value in environment.items():
        if value.startswith("/run/keys/"):
            file = tmp_path / Path(value).name
            file.write_text(secrets[file.name])
            environment[name] = str(file)
    environment["WASM_EXECUTOR_OPERATOR_PUBLIC_KEY"] = "d7" * 32
    settings = load(environment=environment)

    assert settings.missing_to_run() == []
    assert settings.require_hardening
    assert POD["terminationGracePeriodSeconds"] >= settings.drain_seconds + 10
    ports = [port["containerPort"] for port in CONTAINER["ports"]]
    assert ports == [settings.metrics_port]
    mounts = {mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert str(settings.state_dir) in mounts


def test_pods_run_without_privileges_and_service_links() -> None:
    assert POD["enableServiceLinks"] is False
    assert POD["automountServiceAccountToken"] is False
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_halted_lane_restarts_nobody() -> None:
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == "/live"
    assert CONTAINER["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_scaling_looks_at_the_lag_that_instances_would_help_with() -> None:
    (trigger,) = OBJECTS["scaling"]["spec"]["triggers"]
    (series,) = re.findall(r"wasm_\w+", trigger["metadata"]["query"])

    assert series == "wasm_executor_processable_lag_offsets"
    assert series in BY_NAME
    assert OBJECTS["scaling"]["spec"]["scaleTargetRef"]["name"] == "wasm-executor"


def test_every_selector_selects_the_pods() -> None:
    labels = OBJECTS["statefulset"]["spec"]["template"]["metadata"]["labels"]

    assert OBJECTS["statefulset"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["services"]["spec"]["selector"] == labels
    assert OBJECTS["disruption"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["network"]["spec"]["podSelector"]["matchLabels"] == labels
