from __future__ import annotations

import grp
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from stream_executor.environment import Gathered, gather, property_name

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = ("MAX_FUEL", "METRICS_PORT", "JWT_SECRET", "WASM_EXECUTOR_GROUP")
FROM_FILES = ("JWT_SECRET",)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.env"
    path.touch()
    return path


def look(environment: dict[str, str], file: Path) -> Gathered:
    return gather(environment, file, KNOWN, FROM_FILES)


def texts(found: Gathered) -> dict[str, str]:
    assert found.problems == []
    return {name: raw.text for name, raw in found.values.items()}


def test_the_environment_wins_over_the_file_and_origins_say_so(config: Path) -> None:
    config.write_text("MAX_FUEL=1\nJWT_SECRET=a\nJWT_SECRET=b\n")
    found = look({"MAX_FUEL": "2"}, config)
    assert texts(found) == {"MAX_FUEL": "2", "JWT_SECRET": "b"}
    assert found.values["MAX_FUEL"].origin == "environment"
    assert found.values["JWT_SECRET"].origin == f"{config}:3"


def test_a_comment_that_systemd_kept_in_the_environment_is_taken_off(
    config: Path,
) -> None:
    """EnvironmentFile= in the unit hands on the line that we read ourselves."""
    config.write_text('MAX_FUEL=10000000  # Double CPU limit\nJWT_SECRET="x" # y\n')
    found = look({"MAX_FUEL": "10000000  # Double CPU limit"}, config)
    assert texts(found)["MAX_FUEL"] == "10000000"
    assert texts(look({"JWT_SECRET": "x# y"}, config))["JWT_SECRET"] == "x"


def test_an_unknown_name_of_ours_is_refused_with_a_suggestion(config: Path) -> None:
    config.write_text("WASM_EXECUTOR_GRUOP=x\n")
    (problem,) = look({}, config).problems
    assert problem == (
        f"WASM_EXECUTOR_GRUOP ({config}:1) is no setting; "
        "did you mean WASM_EXECUTOR_GROUP?"
    )
    assert look({"WASM_EXECUTOR_XYZ": "1"}, config).problems[1:] == [
        "WASM_EXECUTOR_XYZ (environment) is no setting"
    ]


def test_a_misspelt_bare_name_in_the_file_is_refused(config: Path) -> None:
    config.write_text("MAX_FULE=1\nTZ=UTC\nJAVA_HOME=/x\n")
    assert look({}, config).problems == [
        f"{config}:1: MAX_FULE is no setting; did you mean MAX_FUEL?"
    ]


def test_names_of_the_test_suite_and_of_the_file_are_no_settings(config: Path) -> None:
    environment = {"WASM_EXECUTOR_TEST_BOOTSTRAP": "x", "WASM_EXECUTOR_ENV_FILE": "y"}
    assert texts(look(environment, config)) == {}


def test_what_kubernetes_injects_is_left_out(config: Path) -> None:
    environment = {
        "WASM_EXECUTOR_SERVICE_HOST": "10.0.0.1",
        "WASM_EXECUTOR_SERVICE_PORT": "9090",
        "WASM_EXECUTOR_SERVICE_PORT_METRICS": "9090",
        "WASM_EXECUTOR_PORT": "tcp://10.0.0.1:9090",
        "WASM_EXECUTOR_PORT_9090_TCP": "tcp://10.0.0.1:9090",
        "WASM_EXECUTOR_PORT_9090_TCP_ADDR": "10.0.0.1",
        "WASM_EXECUTOR_WEB_PORT": "tcp://10.0.0.1:80",
        "KAFKA_PORT": "tcp://10.0.0.1:9092",
        "KAFKA_SERVICE_HOST": "10.0.0.1",
        "KAFKA_PORT_9092_TCP_PROTO": "tcp",
        "METRICS_SERVICE_HOST": "10.0.0.1",
    }
    found = look(environment, config)
    assert texts(found) == {}
    assert found.properties == {}
    assert any(
        note.startswith("WASM_EXECUTOR_PORT ") and "enableServiceLinks" in note
        for note in found.notes
    )


def test_a_service_link_in_a_settings_place_is_answered_by_name(config: Path) -> None:
    (problem,) = look({"METRICS_PORT": "tcp://10.0.0.1:9090"}, config).problems
    assert problem.startswith("METRICS_PORT=tcp://10.0.0.1:9090: Kubernetes")
    assert "enableServiceLinks: false" in problem


def test_a_secret_can_come_from_a_file_without_its_last_newline(
    config: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a/b+c=\n")
    found = look({"JWT_SECRET_FILE": str(secret)}, config)
    assert texts(found) == {"JWT_SECRET": "a/b+c="}
    assert found.values["JWT_SECRET"].origin == f"{secret} (JWT_SECRET_FILE)"


@pytest.mark.parametrize("order", [1, -1])
def test_a_secret_and_its_file_cannot_both_be_set(
    config: Path, tmp_path: Path, order: int
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a")
    pairs = [("JWT_SECRET", "b"), ("JWT_SECRET_FILE", str(secret))][::order]
    (problem,) = look(dict(pairs), config).problems
    assert "JWT_SECRET" in problem
    assert "and so is" in problem


def test_a_secrets_file_that_cannot_be_read_is_named(
    config: Path, tmp_path: Path
) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff")
    missing = tmp_path / "missing"
    assert look({"JWT_SECRET_FILE": str(missing)}, config).problems == [
        f"JWT_SECRET_FILE: {missing}: No such file or directory"
    ]
    assert look({"JWT_SECRET_FILE": str(binary)}, config).problems == [
        f"JWT_SECRET_FILE: {binary}: not UTF-8 text"
    ]


def test_only_secrets_have_a_file_twin(config: Path) -> None:
    found = look({"MAX_FUEL_FILE": "x", "WASM_EXECUTOR_GROUP_FILE": "x"}, config)
    assert found.values == {}
    assert len(found.problems) == 1


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "bootstrap.servers"),
        ("KAFKA_SASL_JAAS_CONFIG", "sasl.jaas.config"),
        ("KAFKA_A__B___C_D", "a-b_c.d"),
    ],
)
def test_kafka_names_follow_the_rule_of_confluents_images(
    variable: str, name: str
) -> None:
    assert property_name(variable) == name


def test_kafka_properties_come_from_file_and_variables_which_win(
    config: Path, tmp_path: Path
) -> None:
    properties = tmp_path / "client.properties"
    properties.write_text("bootstrap.servers=a:1\nsecurity.protocol=SSL\n")
    password = tmp_path / "password"
    password.write_text("pw\n")
    config.write_text("KAFKA_BOOTSTRAP_SERVERS=b:2\n")
    found = look(
        {
            "KAFKA_PROPERTIES_FILE": str(properties),
            "KAFKA_SASL_PASSWORD_FILE": str(password),
            "KAFKA_HEAP_OPTS": "-Xmx1G",
        },
        config,
    )
    assert {name: raw.text for name, raw in found.properties.items()} == {
        "bootstrap.servers": "b:2",
        "security.protocol": "SSL",
        "sasl.password": "pw",
        "heap.opts": "-Xmx1G",
    }


def test_a_properties_file_that_cannot_be_read_is_named(
    config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "client.properties"
    assert str(path) in look({"KAFKA_PROPERTIES_FILE": str(path)}, config).problems[0]
    path.write_text("nonsense\n")
    (problem,) = look({"KAFKA_PROPERTIES_FILE": str(path)}, config).problems
    assert "line 1" in problem


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "config.env"
    assert look({}, path).problems == [f"{path}: no such file"]
    named = {"WASM_EXECUTOR_ENV_FILE": str(path)}
    assert gather(named, None, KNOWN, FROM_FILES).problems == [f"{path}: no such file"]


def test_a_folder_instead_of_a_file_is_named(tmp_path: Path) -> None:
    assert look({}, tmp_path).problems == [f"{tmp_path}: Is a directory"]


def test_a_backup_that_was_restored_one_folder_too_deep_is_named(
    tmp_path: Path,
) -> None:
    """The manual's `cp -r` nests its source when the target exists."""
    folder = tmp_path / "etc"
    nested = folder / "wasm-executor-config-20261123"
    nested.mkdir(parents=True)
    (nested / "config.env").write_text("MAX_FUEL=1\n")
    (problem,) = look({}, folder / "config.env").problems
    assert problem.startswith(f"{folder / 'config.env'} is missing: a backup was ")

    (folder / "config.env").write_text("MAX_FUEL=2\n")
    found = look({}, folder / "config.env")
    (note,) = found.notes
    assert note.startswith(f"{folder / 'config.env'} is not the restored one: ")
    assert (found.problems, found.values["MAX_FUEL"].text) == ([], "2")

    remedy = note.partition("; ")[2].replace("sudo ", "")
    subprocess.run(remedy, shell=True, check=True)  # noqa: S602 - as an operator would
    found = look({}, folder / "config.env")
    assert (found.notes, found.values["MAX_FUEL"].text) == ([], "1")
    assert not nested.exists()


@pytest.mark.root
def test_a_restored_file_that_belongs_to_root_is_named(tmp_path: Path) -> None:
    """After `sudo cp -r` the service's group has no rights to its configuration."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from stream_executor.environment import gather\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "print(gather({}, Path(sys.argv[1]), [], []).problems[0])"
    )
    path = tmp_path / "config.env"
    path.touch(0o640)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    ran = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, check=True, text=True
    )
    group = grp.getgrgid(65534).gr_name
    remedy = f"sudo chgrp -R {group} {tmp_path}"
    assert ran.stdout == f"{path}: permission denied; {remedy}\n"


def test_no_representation_shows_a_value(config: Path) -> None:
    config.write_text("JWT_SECRET=hunter2\n")
    assert "hunter2" not in repr(look({}, config))
