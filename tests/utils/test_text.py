"""Numbers have the right noun; messages that quote what was typed stay one short, printable line."""

from __future__ import annotations

from kdbench.utils.text import counted, inflected, message_line


def test_nouns_follow_their_numbers() -> None:
    assert [counted(number, "epoch") for number in (0, 1, 1200)] == ["0 epochs", "1 epoch", "1,200 epochs"]
    assert [inflected(noun, 2) for noun in ("class", "search", "batch")] == ["classes", "searches", "batches"]


def test_control_characters_are_spelt() -> None:
    assert message_line("a\nb\tc\x1b[31m\x7f \udcff ä ☃") == r"a\nb\tc\x1b[31m\x7f \udcff ä ☃"


def test_long_words_and_messages_lose_their_middle() -> None:
    line = message_line(f"no file {'x' * 5000}end: type another")
    assert line.startswith("no file xxx")
    assert line.endswith("xend: type another")
    assert " ... " in line
    assert len(line) < 330
    path = "/".join(["folder"] * 40)
    assert message_line(f"no file {path}") == f"no file {path}"
    assert len(message_line("a word " * 5000)) < 2000
