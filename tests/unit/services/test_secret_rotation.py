from __future__ import annotations

import base64
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_executor.environment_file import parse_environment_file
from stream_executor.model.errors import ConfigError
from stream_executor.services.secret_rotation import (
    end_grace,
    new_secret,
    rotate,
)

OLD = "q3J/+8=" * 7
CONFIG = f"""# our executor
KAFKA_BOOTSTRAP_SERVERS=kafka:9092
JWT_SECRET={OLD}  # since March
MAX_FUEL=5000000    # Double CPU limit
"""


def values(path: Path) -> dict[str, str]:
    parsed = parse_environment_file(path.read_text())
    assert parsed.problems == []
    return {one.name: one.value for one in parsed.assignments}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.env"
    path.write_text(CONFIG)
    path.chmod(0o640)
    return path


def test_a_new_secret_is_the_manuals_kind() -> None:
    assert len(base64.b64decode(new_secret(), validate=True)) == 48
    assert new_secret() != new_secret()


def test_without_grace_the_old_secret_is_gone(config: Path) -> None:
    rotate(config, "new/+=", grace=False)

    assert values(config) == {
        "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
        "JWT_SECRET": "new/+=",
        "MAX_FUEL": "5000000",
    }
    assert OLD not in config.read_text()
    assert config.read_text().startswith("# our executor\n")
    assert config.stat().st_mode & 0o777 == 0o640
    assert list(config.parent.iterdir()) == [config]


def test_with_grace_it_counts_until_that_ends(config: Path) -> None:
    rotate(config, "second", grace=True)
    assert values(config)["JWT_SECRET_PREVIOUS"] == OLD

    rotate(config, "third", grace=True)
    assert values(config)["JWT_SECRET_PREVIOUS"] == "second"
    assert OLD not in config.read_text()

    assert end_grace(config)
    assert "JWT_SECRET_PREVIOUS" not in values(config)
    assert values(config)["JWT_SECRET"] == "third"
    assert not end_grace(config)


def test_a_secret_in_a_file_of_its_own_is_rotated_there(config: Path) -> None:
    secret = config.with_name("secret")
    secret.write_text(OLD + "\n")
    link = config.with_name("link")
    link.symlink_to(secret)
    config.write_text(f"JWT_SECRET_FILE={link}\n")

    assert rotate(config, "new", grace=True).file == link

    assert secret.read_text() == "new\n"
    assert link.is_symlink()
    assert values(config) == {
        "JWT_SECRET_FILE": str(link),
        "JWT_SECRET_PREVIOUS": OLD,
    }


@pytest.mark.parametrize(
    "text",
    [
        "MAX_FUEL=1\n",
        f'JWT_SECRET="{OLD}\nand more"\n',
        f"JWT_SECRET={OLD}\\\n  and more\n",
        "JWT_SECRET=a\nno assignment\n",
    ],
    ids=["none", "several lines", "continued", "broken"],
)
def test_what_only_a_person_can_change_stays_as_it_is(config: Path, text: str) -> None:
    config.write_text(text)

    with pytest.raises(ConfigError) as caught:
        rotate(config, "new", grace=True)

    assert config.read_text() == text
    assert OLD not in str(caught.value)
    assert list(config.parent.iterdir()) == [config]


@given(
    st.lists(
        st.sampled_from(
            ["# a comment", "", "MAX_FUEL=1", "JWT_SECRET=old", "LOG_LEVEL=info # x"]
        )
    ),
    st.booleans(),
)
def test_nothing_else_in_the_file_changes(lines: list[str], grace: bool) -> None:  # noqa: FBT001
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.env"
        path.write_text("\n".join([*lines, "JWT_SECRET=last"]))
        before = values(path)

        rotate(path, "new", grace=grace)

        after = values(path)
        previous = {"JWT_SECRET_PREVIOUS": before["JWT_SECRET"]} if grace else {}
        assert after == before | {"JWT_SECRET": "new"} | previous
        kept = [line for line in lines if "JWT" not in line]
        assert [
            line for line in path.read_text().splitlines() if "JWT" not in line
        ] == kept
