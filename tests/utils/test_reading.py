"""Reading files of others: every damage is a reason in one line, and nothing waits or overflows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdbench.utils.reading import Missing, Unreadable, parse_json, parse_toml, read_json, read_text, read_toml


def of(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


DAMAGED_JSON: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (of(b""), "not readable as JSON"),
    "cut": (of(b'{"a": [1, 2'), "not readable as JSON"),
    "zeros": (of(bytes(100)), "not readable as JSON"),
    "Latin-1": (of('{"a": "é"}'.encode("latin-1")), "not UTF-8 text"),
    "UTF-16": (of('{"a": 1}'.encode("utf-16")), "not UTF-8 text"),
    "a list": (of(b"[]"), "is not a JSON object"),
    "null": (of(b"null"), "is not a JSON object"),
    "nested": (of(b"[" * 200_000), "it nests too deep"),
    "nested and closed": (of(b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"), "it nests too deep"),
    "NaN": (of(b'{"a": NaN}'), "nan is not a number"),
    "infinite": (of(b'{"a": [-Infinity]}'), "-inf is not a number"),
    "overflowing": (of(b'{"a": 1e400}'), "inf is not a number"),
    "5,000 digits": (of(b'{"a": 1' + b"0" * 5000 + b"}"), "4300 digits"),
    "a key twice": (of(b'{"a": 1, "b": {"c": 1, "c": 2}}'), "key 'c' is given twice"),
    "half a surrogate pair": (of(b'{"a": "\\ud800"}'), "surrogates not allowed"),
    "half a surrogate pair in capitals": (of(b'{"\\uDFFF": 1}'), "surrogates not allowed"),
    "a folder": (lambda path: path.mkdir(), "is a folder, not a file"),
    "a pipe": (os.mkfifo, "is not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "a loop of links": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "huge": (sparse, "is too large: it has 1,099,511,627,776 bytes"),
}


@pytest.mark.parametrize("name", DAMAGED_JSON)
def test_damaged_json_is_a_reason_in_one_line(name: str, tmp_path: Path) -> None:
    damage, words = DAMAGED_JSON[name]
    damage(tmp_path / "file")
    with pytest.raises(Unreadable, match=re.escape(words)) as refused:
        read_json(tmp_path / "file")
    assert len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


def test_a_file_without_rights_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")  # modes of files do not bind every user that runs tests

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Unreadable, match="Permission denied"):
        read_json(tmp_path / "file")


@pytest.mark.parametrize("path", ["absent", "file/below"])
def test_a_missing_file_can_be_told_from_a_damaged_one(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Missing):
        read_json(tmp_path / path)


def test_a_link_to_nothing_is_damage(tmp_path: Path) -> None:
    """Its disk may only be away, so that what belongs to the file is kept."""
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(Unreadable, match="is a link to a file that does not exist") as caught:
        read_json(tmp_path / "link")
    assert not isinstance(caught.value, Missing)


def test_a_path_that_no_file_can_have_is_a_reason() -> None:
    for path in ("a\0b", "x" * 300):
        with pytest.raises(Unreadable):
            read_json(path)


def test_whole_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null, "\\ud83d\\ude00 \xc3\xa9"]}')
    assert read_json(tmp_path / "file") == {"a": [1, 2.5, None, "\U0001f600 é"]}
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfa = 1\r\n[b]\nc = 2.5\n")
    assert read_toml(tmp_path / "file") == {"a": 1, "b": {"c": 2.5}}
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link").startswith("a = 1")


def test_many_lists_that_do_not_nest_are_read() -> None:
    assert len(parse_json(f"[{', '.join(['[]'] * 1000)}]")) == 1000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = ", "is not TOML"),
        ("\0", "is not TOML"),
        ("a = 1\na = 2", "is not TOML"),
        (f"a = {'[' * 100_000}", "it nests too deep"),
        (f"{'.'.join('a' * 300)} = 1", "it nests too deep"),
        (f"a = 1{'0' * 5000}", "4300 digits"),
    ],
)
def test_damaged_toml_is_a_reason_in_one_line(text: str, words: str) -> None:
    with pytest.raises(Unreadable, match=re.escape(words)) as refused:
        parse_toml(text)
    assert "\n" not in str(refused.value)
