"""What documents say is compared with the code wherever it can be.

Commands of the README are in ``tests/acceptance/test_readme.py``, settings in
``tests/unit/settings``, threats in ``test_threat_model.py``.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from stream_executor.auth.token import MAX_TOKEN_BYTES, TokenProfile
from stream_executor.model.codes import CODES, TrapKind
from stream_executor.settings_fields import FIELDS, variable

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "stream_executor"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
# Whom documents may send a reader to, and the addresses of this machine's own.
HOSTS = {"keepachangelog.com", "semver.org", "127.0.0.1", "localhost"}
_HOST = re.compile(r"\bhttps?://([\w.-]+)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def prose(text: str) -> str:
    return _BLOCK.sub("", text)


def rows(text: str, columns: int) -> list[list[str]]:
    """Give the rows of the tables that have so many columns, headings left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = {at for at, row in enumerate(cells) if set("".join(row)) <= set("-:")}
    headings = {at - 1 for at in rules}
    return [
        row
        for at, row in enumerate(cells)
        if len(row) == columns and at not in rules | headings
    ]


def anchors(text: str) -> set[str]:
    """Give the anchors of a document's headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(prose(document.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{name_of(document)}: {link}"
        assert target.is_relative_to(ROOT), f"{name_of(document)}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_documents_name_no_machine_and_only_known_hosts(document: Path) -> None:
    text = document.read_text(encoding="utf-8")

    assert set(_HOST.findall(text)) <= HOSTS
    assert not re.search(r"(?<![\w.])/(work|root|home/\w+|Users)/", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_blocks_are_what_they_say(document: Path) -> None:
    for language, block in _BLOCK.findall(document.read_text(encoding="utf-8")):
        if language == "json":
            json.loads(block)
        if language == "python":
            ast.parse(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_lines_are_short_enough_to_review(document: Path) -> None:
    text = prose(document.read_text(encoding="utf-8"))

    long = [line for line in text.splitlines() if len(line) > 92 and line[0] != "|"]
    assert not long


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_documents_name_exist(document: Path) -> None:
    """A path in backquotes is one of the repository or, without it, of the package."""
    for name in _CODE.findall(prose(document.read_text(encoding="utf-8"))):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)+\.(py|avsc|toml|yml|md)", name):
            continue
        assert any((base / name).exists() for base in (ROOT, PACKAGE, DOCS)), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_settings_that_documents_name_exist(document: Path) -> None:
    known = {variable(field) for field in FIELDS}
    known |= {f"{name}_FILE" for name in known}
    outside = ("WASM_EXECUTOR_ENV_FILE", "WASM_EXECUTOR_TEST_")

    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"\bWASM_EXECUTOR_[A-Z][A-Z_]*", text):
        assert name in known or name.startswith(outside), name


def test_codes_are_those_of_the_model() -> None:
    text = read("docs/codes.md")

    expected = [
        [f"`{code}`", str(entry.status), entry.meaning, entry.remedy]
        for code, entry in CODES.items()
    ]
    assert rows(text, 4) == expected
    assert all(f"`{kind}`" in text for kind in TrapKind)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_codes_that_documents_name_exist(document: Path) -> None:
    codes = {str(code) for code in CODES}

    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`(auth_[a-z_]+)`", text):
        assert name in codes, name


def test_the_order_of_effects_is_the_lanes() -> None:
    docstring = ast.get_docstring(ast.parse(read("stream_executor/lane/lane.py")))
    effects = (docstring or "").split("\n\n")[2]

    assert effects.startswith("acquire   1 fence")
    assert f"```\n{effects}\n```" in read("docs/architecture.md")


def imports_of(room: str) -> tuple[set[str], set[str]]:
    """Give the other rooms and the libraries that a room's files import."""
    rooms: set[str] = set()
    libraries: set[str] = set()
    for file in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                first, _, rest = name.partition(".")
                if first == "stream_executor":
                    rooms |= {rest.partition(".")[0]} if rest else set()
                elif first not in sys.stdlib_module_names:
                    libraries.add(first)
    return {r for r in rooms if (PACKAGE / r).is_dir()} - {room}, libraries


def allowed_of(cell: str, rooms: set[str]) -> set[str]:
    named = set(_CODE.findall(cell))
    if cell.startswith("all"):
        return rooms - named
    return named


def test_rooms_import_only_what_the_table_says() -> None:
    table = {
        _CODE.findall(row[0])[0]: row
        for row in rows(read("docs/architecture.md"), 4)
        if row[0].startswith("`")
    }
    rooms = {folder.name for folder in PACKAGE.iterdir() if folder.is_dir()}
    rooms -= {"__pycache__", "schemas"}

    assert set(table) == rooms
    for room, (_, _, may_rooms, may_libraries) in table.items():
        imported, libraries = imports_of(room)
        assert imported <= allowed_of(may_rooms, rooms), room
        assert libraries <= set(may_libraries.split()), room


def requirements() -> set[str]:
    project = tomllib.loads(read("pyproject.toml"))
    lines = [*project["project"]["dependencies"]]
    for group in project["project"]["optional-dependencies"].values():
        lines += group
    for group in project["dependency-groups"].values():
        lines += group
    return {re.match(r"[\w.-]+", line)[0].lower() for line in lines}  # type: ignore[index]


def test_every_dependency_has_its_line_and_no_line_is_left_over() -> None:
    listed = [row[0] for row in rows(read("docs/dependencies.md"), 4)]

    assert sorted(listed) == sorted(requirements())


def test_python_versions_are_those_of_the_package() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    prefix = "Programming Language :: Python :: "
    versions = [
        line.removeprefix(prefix)
        for line in project["classifiers"]
        if line.startswith(prefix)
    ]

    assert f"| Python | {', '.join(versions)} |" in read("docs/support.md")
    assert project["requires-python"] == f">={versions[0]}"


def test_numbers_of_the_token_profile_are_those_of_the_code() -> None:
    text = read("docs/signing.md")
    profile = TokenProfile()

    assert f"At most {MAX_TOKEN_BYTES:,} bytes" in text
    assert f"within {profile.max_append_age_s} seconds of `iat`" in text
    assert f"at most {profile.leeway_s}\nseconds in the future" in text


def test_adrs_are_numbered_linked_and_of_one_form() -> None:
    files = sorted((DOCS / "adr").glob("[0-9]*.md"))
    index = read("docs/adr/README.md")

    numbers = [file.name[:4] for file in files]
    # Numbers are given out in blocks, so one may be missing; none is there twice.
    assert len(set(numbers)) == len(numbers)
    for file in files:
        text = file.read_text(encoding="utf-8")
        title = text.splitlines()[0]
        assert title.startswith(f"# {file.name[:4]}. ")
        assert f"| [{file.name[:4]}]({file.name}) | {title[8:]} |" in index
        for part in ("Context", "Options", "Decision", "Cost"):
            assert f"**{part}.**" in text, f"{file.name}: {part}"


def test_the_glossary_is_in_order() -> None:
    words = [row[0] for row in rows(read("docs/glossary.md"), 2)]

    assert words == sorted(words, key=str.lower)
