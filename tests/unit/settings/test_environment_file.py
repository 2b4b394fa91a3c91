from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_executor.environment_file import (
    MAX_FILE_BYTES,
    parse_environment_file,
    read_environment_file,
)

if TYPE_CHECKING:
    from pathlib import Path


def values(text: str) -> dict[str, str]:
    parsed = parse_environment_file(text)
    assert parsed.problems == []
    return {a.name: a.value for a in parsed.assignments}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=5000000", "5000000"),
        ("K=5000000    # Double CPU limit", "5000000"),
        ("K=5000000\t# note", "5000000"),
        ('K="5000000"   # note', "5000000"),
        ("K='a b'#note", "a b"),
        ("K = spaced", "spaced"),
        ("  K=indented  ", "indented"),
        ("K=a/b+c==", "a/b+c=="),
        ("K=abc#def", "abc#def"),
        ("K=#abc", ""),
        ("K=", ""),
        ("K=   # nothing", ""),
        ('K=""', ""),
        ("K=a b c", "a b c"),
        ("K=$HOME and ${HOME}", "$HOME and ${HOME}"),
        (r"K=a\ b", "a b"),
        (r'K="a\"b\\c\$d\n"', r"a\"b\c$d\n".replace(r"\"", '"')),
        (r"K='a\b'", r"a\b"),
        ('K=say "hi"', 'say "hi"'),
        ("K=a;b", "a;b"),
        ("K=a\\\nb", "ab"),
        ('K="a\\\nb"', "ab"),
        ('K="-----BEGIN\nx\n-----END"', "-----BEGIN\nx\n-----END"),
        ("K=trailing\\\\", "trailing\\"),
    ],
)
def test_values_of_the_dialect(line: str, value: str) -> None:
    assert values(line) == {"K": value}
    assert values(line.replace("\n", "\r\n") + "\r\n") == {"K": value}


def test_comments_blank_lines_and_order() -> None:
    text = "# one\n; two\n\n   # three\nA=1\nB=2\nA=3\n"
    parsed = parse_environment_file(text)
    assert [(a.name, a.value, a.line) for a in parsed.assignments] == [
        ("A", "1", 5),
        ("B", "2", 6),
        ("A", "3", 7),
    ]


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("K=5000000    # note", "5000000    # note"),
        ('K="abc"   # note', "abc# note"),
        ("K=plain", "plain"),
    ],
)
def test_what_systemd_makes_of_the_same_line_is_known(line: str, seen: str) -> None:
    assert parse_environment_file(line).assignments[0].systemd_value == seen


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("A=1\nnonsense\n", "2: expected NAME=value"),
        ("export A=1", "1: expected NAME=value: `export` is for shells"),
        ("9A=1", "1: expected NAME=value: letters, digits and _ before the ="),
        ("A-B=1", "1: expected NAME=value: letters, digits and _ before the ="),
        ("=1", "1: expected NAME=value: letters, digits and _ before the ="),
        ('A="open', "1: A: the quote is not closed"),
        ('A="x" y', "1: A: text after the closing quote"),
        ("A=x\x00y", "1: A: the value holds a control character"),
    ],
)
def test_garbage_is_refused_by_line_and_key(text: str, problem: str) -> None:
    assert parse_environment_file(text).problems == [problem]


def test_every_problem_is_told_at_once_and_the_rest_is_read() -> None:
    parsed = parse_environment_file("oops\nA=1\nB='open\nC=3\n")
    assert parsed.problems == [
        "1: expected NAME=value",
        "3: B: the quote is not closed",
    ]
    assert [a.name for a in parsed.assignments] == ["A", "C"]


def test_a_problem_never_quotes_what_may_be_half_a_secret() -> None:
    secret = "q3J9hV8zTn5uKx2b"
    for text in (secret, f"{secret}+/=abc", f'JWT_SECRET="{secret}', f"J='a'{secret}"):
        assert secret not in "".join(parse_environment_file(text).problems)


@given(st.text())
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    parsed = parse_environment_file(text)
    assert all(problem[0].isdigit() for problem in parsed.problems)


@given(
    st.text(
        st.characters(codec="ascii", categories=["L", "N"], include_characters="/+=")
    )
)
def test_a_base64_secret_is_the_same_bare_and_quoted(secret: str) -> None:
    assert values(f"K={secret}") == {"K": secret}
    assert values(f'K="{secret}"') == {"K": secret}
    assert values(f"K='{secret}' # note") == {"K": secret}


def test_a_files_problems_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.env"
    path.write_bytes(b"\xef\xbb\xbfA=1\r\noops\r\n")
    read = read_environment_file(path)
    assert [a.name for a in read.assignments] == ["A"]
    assert read.problems == [f"{path}:2: expected NAME=value"]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.env"
    path.write_bytes(b"A=1\nB=\xff\n")
    assert read_environment_file(path).problems == [f"{path}:2: not UTF-8"]
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    assert "larger than" in read_environment_file(path).problems[0]
