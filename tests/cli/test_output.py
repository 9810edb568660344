"""What commands do where standard output cannot take what they print."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import pytest
from cells import Typed
from fake_records import fake_record, write_records

from kdbench import cli
from kdbench.cli import app


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of two methods with two seeds each."""
    monkeypatch.chdir(tmp_path)
    records = [fake_record("kd", seed, 80.0 + seed) for seed in (1, 2)]
    write_records(tmp_path / "runs", [*records, *(fake_record("ce", seed, 79.0, teacher=None) for seed in (1, 2))])
    return tmp_path / "runs"


@pytest.fixture
def closed_pipe() -> Iterator[TextIO]:
    """A pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    file = os.fdopen(writer, "w")
    yield file
    file.close()


def run(words: list[str], stdout: TextIO | None, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command in this process, with a standard output of its own; returns its exit code."""
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "__stdout__", stdout)
    monkeypatch.setattr(sys, "argv", ["kdbench", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert sys.stdout is stdout
    return int(ended.value.code or 0)


COMMANDS = [["table", "runs"], ["compare", "runs", "--format", "csv"], ["list", "protocols"], ["--version"], ["--help"]]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_full_disk_is_one_line(
    words: list[str], runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        assert run(words, full, monkeypatch) == 2
    assert capsys.readouterr().err == "kdbench: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize("words", COMMANDS)
def test_a_reader_that_is_gone_is_no_failure(
    words: list[str],
    runs: Path,
    closed_pipe: TextIO,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run(words, closed_pipe, monkeypatch) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("full", [True, False])
def test_training_goes_on_where_its_display_cannot_be_written(
    full: bool, small: list[str], closed_pipe: TextIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", *small, "--student", "resnet8", "--method", "ce"]
    with Path("/dev/full").open("w") as device:
        assert run(words, device if full else closed_pipe, monkeypatch) == (2 if full else 0)
    assert len(list(tmp_path.glob("runs/**/record.json"))) == 1


def test_a_closed_output_is_none(runs: Path) -> None:
    """No file that a command opens takes the place of a descriptor that its shell closed."""
    command = f"'{sys.executable}' -m kdbench table runs <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0


@pytest.mark.parametrize(
    ("encoding", "text"), [("ascii", "82.00 +- 0.71 ^2"), ("latin-1", "81.50 ± 0.71 ^2.50"), ("utf-8", "± 0.71 ↑2.50")]
)
def test_characters_that_a_terminal_lacks_are_replaced(
    encoding: str, text: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("out").open("w", encoding=encoding) as out:
        assert run(["table", "runs", "--layout", "paper"], out, monkeypatch) == 0
    assert text.replace("82.00", "81.50") in Path("out").read_text(encoding=encoding)


@pytest.mark.parametrize("form", ["csv", "latex"])
def test_what_programs_read_is_in_utf_8(form: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for encoding in ("ascii", "utf-8"):
        with Path("out").open("w", encoding=encoding) as out:
            assert run(["table", "runs", "--format", form], out, monkeypatch) == 0
        written.append(Path("out").read_bytes())
    assert written[0] == written[1]
    assert written[0].decode()


def test_an_error_that_no_command_expects_is_one_line(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("a \x1b[31mtree\nfell")

    monkeypatch.setattr(app, "app", broken)
    code, out, err = typed("table")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("kdbench: unexpected KeyError: ")
    assert "\x1b" not in err
    file = Path(err.rpartition("the traceback is in ")[2].strip())
    assert "in broken\n" in file.read_text()
    file.unlink()


def test_ctrl_c_that_a_package_turns_into_another_error_is_no_traceback(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def imported() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("cannot import") from error

    monkeypatch.setattr(app, "app", imported)
    assert typed("table") == (130, "", "kdbench: stopped\n")


def test_the_version_is_printed(typed: Typed) -> None:
    assert typed("--version") == (0, f"kdbench {metadata.version('kdbench')}\n", "")


def test_printing_to_a_capture_leaves_it_in_place(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", capture)
    monkeypatch.setattr(sys, "argv", ["kdbench", "table", "runs", "--format", "csv"])
    with pytest.raises(SystemExit):
        cli.main()
    assert b"resnet8" in capture.buffer.getvalue()  # type: ignore[attr-defined]


def test_an_interrupt_around_the_command_is_one_line(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdbench.cli.output.with_lasting_streams", run)
    assert typed("table") == (130, "", "kdbench: stopped\n")


def test_little_is_imported_before_interrupts_are_taken() -> None:
    code = "import sys; before = set(sys.modules); import kdbench.cli; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-c", f"import __future__, signal; {code}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["kdbench", "kdbench.cli", "kdbench.errors"]
