from __future__ import annotations

import base64
import re
import runpy
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from stream_executor.services.worker_settings import WorkerSettings
from stream_executor.settings import Settings, SettingsError, load
from stream_executor.settings_fields import FIELDS, variable

SECRET = "vG7b/Qx2+nT9mJp4LzR8wYc1KdHs6FeA0uViXoNq"
OTHER = "mJp4LzR8wYc1KdHs6FeA0uViXoNqvG7b/Qx2+nT9"
KEY = base64.b64encode(bytes(range(200, 232))).decode()
HTTP_TOKEN = "a-token-for-http-17"
MANUAL = {
    "MAX_FUEL": "5000000",
    "MAX_MEMORY_BYTES": "67108864",
    "MAX_STACK_BYTES": "1048576",
    "TIMEOUT_SECONDS": "5",
    "AUDIT_LOG_PATH": "/var/log/wasm-executor/audit.log",
    "ENABLE_AUDIT_LOGGING": "true",
    "JWT_EXPIRY_MINUTES": "60",
    "METRICS_PORT": "9090",
    "LOG_LEVEL": "info",
}


def settings(**values: str) -> Settings:
    alone = {"WASM_EXECUTOR_ENV_FILE": "/dev/null", "JWT_SECRET": SECRET}
    return load(environment=alone | values)


def complete(**values: str) -> Settings:
    return settings(
        WASM_EXECUTOR_OPERATOR_PUBLIC_KEY=KEY,
        WASM_EXECUTOR_FLEET_KEY=KEY,
        WASM_EXECUTOR_DEPLOYMENT_SECRET=KEY,
        **values,
    )


def problems(**values: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings(**values)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_the_manuals_names_have_the_manuals_defaults() -> None:
    shown = {row.name: (row.value, row.origin) for row in settings().describe()}
    for name, value in MANUAL.items():
        assert shown[name] == (value, "default")


def test_a_secret_alone_is_a_valid_configuration_that_names_what_running_needs() -> (
    None
):
    missing = settings().missing_to_run()
    assert [text.split()[0] for text in missing] == [
        "WASM_EXECUTOR_OPERATOR_PUBLIC_KEY",
        "WASM_EXECUTOR_FLEET_KEY",
        "WASM_EXECUTOR_DEPLOYMENT_SECRET",
    ]
    with pytest.raises(SettingsError):
        settings().worker_values()
    assert complete().missing_to_run() == []


def test_without_any_token_key_nothing_can_run() -> None:
    nothing = load(environment={"WASM_EXECUTOR_ENV_FILE": "/dev/null"})
    assert any("JWT_SECRET is not set" in text for text in nothing.missing_to_run())


def test_every_problem_is_told_at_once_by_name() -> None:
    found = problems(
        MAX_FUEL="0",
        LOG_LEVEL="loud",
        WASM_EXECUTOR_NONSENSE="1",
        JWT_SECRET="",
        KAFKA_PROPERTIES_FILE="/nowhere",
        RESULT_ENCODING="xml",
    )
    text = "\n".join(found)
    for name in (
        "MAX_FUEL=0 (environment)",
        "LOG_LEVEL=loud",
        "WASM_EXECUTOR_NONSENSE",
        "JWT_SECRET (environment) is empty",
        "KAFKA_PROPERTIES_FILE",
        "RESULT_ENCODING=xml",
    ):
        assert name in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_FUEL", "-1"),
        ("MAX_FUEL", "5M"),
        ("MAX_FUEL", ""),
        ("MAX_MEMORY_BYTES", "0"),
        ("MAX_STACK_BYTES", "8191"),
        ("MAX_STACK_BYTES", "2097153"),
        ("TIMEOUT_SECONDS", "0"),
        ("TIMEOUT_SECONDS", "nan"),
        ("TIMEOUT_SECONDS", "inf"),
        ("JWT_EXPIRY_MINUTES", "0"),
        ("METRICS_PORT", "0"),
        ("METRICS_PORT", "65536"),
        ("ENABLE_AUDIT_LOGGING", "maybe"),
        ("WORKERS", "0"),
        ("MAX_RESULT_BYTES", "1"),
        ("WASM_EXECUTOR_REQUESTS_TOPIC", "a/b"),
        ("WASM_EXECUTOR_REQUESTS_TOPIC", ".."),
        ("WASM_EXECUTOR_INSTANCE_ID", "a b"),
        ("WASM_EXECUTOR_JWKS_URL", "ftp://x"),
        ("WASM_EXECUTOR_JWKS_URL", "http://keys.example"),
        ("WASM_EXECUTOR_JWT_SECRET_ISSUERS", " , "),
        ("WASM_EXECUTOR_OPERATOR_PUBLIC_KEY", "abc"),
    ],
)
def test_out_of_range_is_refused_by_name_with_the_value(name: str, value: str) -> None:
    (problem,) = problems(**{name: value})
    assert problem.startswith(name)
    assert "environment" in problem


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"MAX_FUEL": "2000000000"}, "above HARD_MAX_FUEL"),
        ({"MAX_MEMORY_BYTES": "1073741824"}, "above HARD_MAX_MEMORY_BYTES"),
        ({"MAX_MODULE_BYTES": "60000000"}, "above HARD_MAX_MODULE_BYTES"),
        ({"TIMEOUT_SECONDS": "90"}, "above HARD_MAX_TIMEOUT_SECONDS"),
        ({"JWT_EXPIRY_MINUTES": "1"}, "TOKEN_MAX_APPEND_AGE_SECONDS is longer"),
        ({"JWT_SECRET_PREVIOUS": SECRET}, "the same"),
        ({"WASM_EXECUTOR_HEARTBEAT_SECONDS": "4"}, "at most a third"),
        ({"TIMEOUT_SECONDS": "40"}, "WASM_EXECUTOR_REBALANCE_TIMEOUT_SECONDS"),
        ({"WASM_EXECUTOR_WINDOW_REQUESTS": "100"}, "COMMIT_REQUESTS is above"),
        ({"WASM_EXECUTOR_AUDIT_TOPIC": "wasm.results"}, "settings are wasm.results"),
        ({"WASM_EXECUTOR_HTTP_TLS_CERT_FILE": "/c"}, "go together"),
        ({"AUDIT_LOG_PATH": "audit.log"}, "absolute"),
        ({"WASM_EXECUTOR_STATE_DIR": "state"}, "absolute"),
        ({"WASM_EXECUTOR_POLICY_FILE": "/nowhere"}, "/nowhere: No such file"),
        ({"WASM_EXECUTOR_JWKS_FILE": "/nowhere"}, "/nowhere: No such file"),
        ({"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "user name and password"),
    ],
)
def test_rules_between_settings(values: dict[str, str], words: str) -> None:
    assert any(words in problem for problem in problems(**values))


@pytest.mark.parametrize("name", ["POLICY_FILE", "JWKS_FILE"])
def test_a_file_that_workers_could_not_use_is_refused_before_they_start(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "file"
    path.write_text("{[nonsense")
    (problem,) = problems(**{f"WASM_EXECUTOR_{name}": str(path)})
    assert problem.startswith(f"WASM_EXECUTOR_{name}={path}: ")


def test_a_key_set_without_a_secret_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text('{"keys": []}')
    made = load(
        environment={
            "WASM_EXECUTOR_ENV_FILE": "/dev/null",
            "WASM_EXECUTOR_JWKS_FILE": str(path),
        }
    )
    assert len(made.missing_to_run()) == 3


def test_a_previous_secret_needs_a_current_one() -> None:
    with pytest.raises(SettingsError, match="without JWT_SECRET"):
        load(
            environment={
                "WASM_EXECUTOR_ENV_FILE": "/dev/null",
                "JWT_SECRET_PREVIOUS": SECRET,
            }
        )


@pytest.mark.parametrize(
    "weak", ["short", "a" * 64, "change-me-change-me-change-me-change-me"]
)
def test_a_weak_secret_is_refused_and_not_quoted(weak: str) -> None:
    (problem,) = problems(JWT_SECRET=weak)
    assert problem.startswith("JWT_SECRET: ")
    assert weak not in problem


@pytest.mark.parametrize("level", ["DEBUG", "Debug", "debug"])
def test_a_log_level_may_be_written_in_any_case(level: str) -> None:
    assert settings(LOG_LEVEL=level).log_level == "debug"
    assert settings(LOG_LEVEL="WARNING").log_level == "warn"


def test_an_empty_optional_value_means_not_set() -> None:
    assert settings(WASM_EXECUTOR_JWKS_FILE="").jwks_file is None


def test_no_secret_is_shown_anywhere(tmp_path: Path) -> None:
    properties = tmp_path / "client.properties"
    properties.write_text(
        "security.protocol=SASL_SSL\nsasl.username=u\nsasl.password=hunter2\n"
    )
    made = complete(
        JWT_SECRET_PREVIOUS=OTHER,
        WASM_EXECUTOR_HTTP_TOKEN=HTTP_TOKEN,
        WASM_EXECUTOR_NOTARY_KEY=KEY,
        KAFKA_PROPERTIES_FILE=str(properties),
    )
    shown = {row.name: row.value for row in made.describe()}
    assert shown["JWT_SECRET"] == "(hidden)"
    assert shown["sasl.password"] == "(hidden)"
    assert shown["sasl.username"] == "u"
    # The operator's key is public, and happens to be the same bytes here.
    shown.pop("WASM_EXECUTOR_OPERATOR_PUBLIC_KEY")
    values = made.worker_values()
    texts = [str(shown), repr(values), str(values), made.digest(), str(made.notes)]
    texts.append(repr(made).replace(f"operator_public_key='{KEY}'", ""))
    for text in texts:
        for secret in (SECRET, OTHER, KEY, HTTP_TOKEN, "hunter2"):
            assert secret not in text


def test_workers_get_plain_values_that_survive_the_pipe() -> None:
    made = complete(
        TIMEOUT_SECONDS="2.5",
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SASL_USERNAME="u",
        KAFKA_SASL_PASSWORD="hunter2",
        WASM_EXECUTOR_JWT_SECRET_ISSUERS="a, b",
        WASM_EXECUTOR_CHILDREN="3",
    )
    values = made.worker_values()
    assert values.ceilings.deadline_ms == 2500
    assert values.tokens.secret_issuers == ("a", "b")
    assert values.secrets.jwt_secret == SECRET.encode()
    assert "sasl.password" not in values.membership.properties
    assert values.kafka_properties == made.kafka_properties
    assert values.kafka_properties["bootstrap.servers"] == "localhost:9092"
    assert values.children == 3
    assert values.membership.group == "wasm-executor"
    assert (
        msgspec.json.decode(msgspec.json.encode(values), type=WorkerSettings) == values
    )


def test_workers_import_neither_pydantic_nor_the_settings() -> None:
    program = (
        "import sys, stream_executor.services.worker_settings,"
        " stream_executor.services.reports, stream_executor.services.lifeline\n"
        "print([m for m in sys.modules"
        " if m.startswith(('pydantic', 'prometheus', 'uvicorn', 'starlette'))"
        " or m == 'stream_executor.settings'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_oddities_are_noted_and_not_refused() -> None:
    notes = settings(
        KAFKA_SASL_USRNAME="u", WASM_EXECUTOR_HTTP_HOST="::", TIMEOUT_SECONDS="25"
    ).notes
    assert any("sasl.usrname is not used" in note for note in notes)
    assert any("WASM_EXECUTOR_HTTP_TOKEN" in note for note in notes)
    assert any("a stop can cut guests" in note for note in notes)
    assert settings().notes == []


def test_children_default_to_this_hosts_cpus_divided() -> None:
    assert settings(WORKERS="64").children_per_worker == 1
    assert settings(WASM_EXECUTOR_CHILDREN="9").children_per_worker == 9


def test_the_digest_tells_configurations_apart_but_not_instances() -> None:
    same = settings(WASM_EXECUTOR_INSTANCE_ID="a").digest()
    assert settings(WASM_EXECUTOR_INSTANCE_ID="b").digest() == same
    assert settings(MAX_FUEL="7").digest() != same


def test_every_name_is_the_manuals_the_designs_or_has_our_prefix() -> None:
    bare = {variable(f) for f in FIELDS if not variable(f).startswith("WASM_EXECUTOR_")}
    assert bare == {
        "JWT_SECRET", *MANUAL, "JWT_SECRET_PREVIOUS", "MAX_MODULE_BYTES",
        "MAX_RESULT_BYTES", "RESULT_ENCODING", "WORKERS",
        "TOKEN_MAX_APPEND_AGE_SECONDS", "REQUIRE_HARDENING", "HARD_MAX_FUEL",
        "HARD_MAX_MEMORY_BYTES", "HARD_MAX_MODULE_BYTES", "HARD_MAX_TIMEOUT_SECONDS",
    }  # fmt: skip


def test_no_name_ends_in_another_that_the_manual_edits_with_sed() -> None:
    """`sed s/JWT_SECRET=.*/…/` would rewrite a KAFKA_JWT_SECRET line, too."""
    names = [variable(field) for field in FIELDS]
    for edited in ("JWT_SECRET", "LOG_LEVEL", "MAX_FUEL", "MAX_MEMORY_BYTES"):
        longer = [n for n in names if n.endswith(edited) and n != edited]
        assert all(name.startswith("HARD_") for name in longer)


@pytest.mark.parametrize(
    ("file", "function"),
    [("docs/settings.md", "table"), ("deploy/config.env", "config")],
)
def test_what_is_made_of_this_table_is_current(file: str, function: str) -> None:
    root = Path(__file__).parents[3]
    tool = runpy.run_path(str(root / "tools" / "write_settings_table.py"))
    written = (root / file).read_text(encoding="utf-8")
    assert written == tool[function](), "run tools/write_settings_table.py"


def test_every_line_of_the_template_can_be_taken_as_it_stands(tmp_path: Path) -> None:
    """Uncommented, its defaults are the defaults; only what has none is left empty."""
    template = Path(__file__).parents[3] / "deploy" / "config.env"
    lines = re.sub(r"(?m)^#(?=[A-Z_]+=.)", "", template.read_text(encoding="utf-8"))
    file = tmp_path / "config.env"
    file.write_text(lines.replace("JWT_SECRET=\n", f"JWT_SECRET={SECRET}\n"))

    assert load(file, {}).digest() == settings().digest()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings().max_fuel = 1  # type: ignore[misc]
