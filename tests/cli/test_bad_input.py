"""Every option and argument of every command under values that nobody should type: one short message, no traceback."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import fault_of_message
from command_parameters import all_parameters
from fake_records import fake_record, write_records
from image_folder import write_folder
from searched_runs import write_search

from kdbench import cli
from kdbench.analysis.publishing.making import publish
from kdbench.engine.session import Session
from kdbench.experiment import own_folders

TESTS = Path(__file__).parent.parent
RULES = {"protocol": "digits-demo-v1"}
PAIR = {**RULES, "student": "resnet8", "method": "ce"}
TEACHER = "runs/digits-demo-v1/teachers/resnet8-33e20e7a"
# Words that each command takes, by the names of its parameters.
COMMANDS: dict[str, dict[str, str]] = {
    "demo": {},
    "train": PAIR,
    "table": {"runs": "records"},
    "leaderboard": {"runs": "records"},
    "compare": {"runs": "records"},
    "claims": {"runs": "records"},
    "search": {"runs": "searched"},
    "report": {"runs": "records", "out": "report"},
    "plot": {"name": "cost", "runs": "records", "out": "plots"},
    "bench": {"pairs": "resnet8>resnet8", **RULES},
    "merge": {"sources": "records"},
    "eval": {"folders": TEACHER},
    "export": {"folder": TEACHER, "target": "onnx", "out": "o.onnx"},
    "track": {"runs": "records", "to": "tensorboard"},
    "publish": {"runs": "records", "out": "new"},
    "site": {"folders": "published", "out": "site"},
    "verify": {"runs": "published"},
    "list": {"what": "networks"},
    "show": {"method": "kd"},
    "new": {"words": "mine", "folder": "own"},
    "validate": {"words": "ce"},
    "teacher train": {**RULES, "network": "resnet8"},
    "teacher import": {"file": "weights.pth", **RULES, "network": "resnet8"},
    "teacher import-logits": {"file": "logits.npy", **RULES},
    "teacher list": {},
    "data subset": {"dataset": "digits", "out": "o.npz", "train_per_class": "1", "test_per_class": "1"},
    "data index": {"word": "folder:images"},
    "data check": {"word": "folder:images"},
    "data list": {"word": "folder:images"},
    "cache build": {**RULES, "teacher": "resnet8", "method": "kd"},
    "cache check": {**RULES, "teacher": "resnet8"},
    "cache list": {},
    "cache prune": {},
    "grid plan": {"file": "g.toml"},
    "grid run": {"file": "g.toml"},
    "grid submit": {"file": "g.toml", "cluster": "local"},
    "grid retry": {"file": "g.toml"},
    "grid cancel": {"file": "g.toml"},
    "grid status": {"file": "g.toml"},
}
NUMBERS = ["-1", "-5", "0", "nan", "inf", "-inf", "1e400", "9" * 30, "9" * 5000, "1.5", "0x10", "1_0", "true", "\u0663"]
TEXTS = [
    *("", " ", "nothing-of-this-name", "-", "--", ".", "..", "../..", "~nobody-of-this-name/x", "@", ">", "a>b>c"),
    *("resnet8@", "@c3", "resnet8>", "timm:", "timm:nothing", "npz:", "npz:.", "npz:a-folder", "a-folder", "a-file"),
    *(
        *("weights.pth", "/dev/null", "[red]x", "[/b]", "[bold", "x\x1b[31m", "a\nb", "a\tb", "\x7f"),
        *("x" * 300, "x" * 5000),
    ),
    *(
        "a-file/below",
        "\udcff",
        "\u2603",
        "{}",
        "%s%n",
        "$(ls)",
        "x=1",
        "kd.temperature=nan",
        "=",
        "temperature=",
        "=4",
    ),
    *("folder:", "folder:a-file", "imagenet:$NOT_SET", "tinyimagenet:images", "tar:a-folder", "folder:../../.."),
    *("temperature=4\nx=5", "temperature=" + "9" * 5000, "temperature=[" + "[" * 2000, "a,b", ",", "None", "*"),
]
GRID = 'protocol = "digits-demo-v1"\npairs = ["resnet8>resnet8"]\nmethods = ["kd", "ce"]\nseeds = 1\n'
EVERYWHERE = ("--methods", "--own")
"""The options that stand before every command."""
PATHS = {"runs", "other", "out", "folder", "folders", "file", "profile", "sources", *EVERYWHERE}
"""Parameters that are paths: nothing is the current folder, and a space is a name."""
SECONDS = 20
"""That a command may take before it counts as hanging."""
ALWAYS = 150
"""Cases that always run; the others are marked."""


@dataclass(frozen=True)
class Case:
    """One command with one bad value."""

    command: str
    parameter: str
    value: str
    is_number: bool

    def words(self) -> list[str]:
        if self.parameter in EVERYWHERE:
            return [self.parameter, self.value, *self.command.split()]
        values = COMMANDS[self.command] | ({self.parameter: self.value} if self.parameter else {})
        given = [each for each in PARAMETERS[self.command] if each.name in values]
        options = [word for each in given if each.option for word in (each.option, values[each.name])]
        arguments = [values[each.name] for each in given if not each.option]
        return [*self.command.split(), *options, *(["--", *arguments] if arguments else [])]

    def __str__(self) -> str:
        return f"{self.command} {self.parameter} {ascii(self.value)[:40]}"


PARAMETERS = all_parameters()


def all_cases() -> list[Case]:
    """Every value for every parameter of every command that takes one, in a seeded order."""
    cases = []
    for command, parameters in PARAMETERS.items():
        for parameter in parameters:
            if not parameter.is_flag:
                values = [*NUMBERS, *TEXTS[:8]] if parameter.is_number else [*TEXTS, *NUMBERS[:9]]
                cases += [Case(command, parameter.name, value, parameter.is_number) for value in values]
    lists = [("--methods", "methods"), ("--methods", "networks"), ("--own", "methods"), ("--own", "protocols")]
    cases += [Case(f"list {what}", option, value, False) for value in TEXTS for option, what in lists]
    random.Random(14).shuffle(cases)
    return cases


NUM_TRIED = 400
CASES = all_cases()[:NUM_TRIED]


class Reached(BaseException):
    """All that was typed has been read: what would take long begins here."""


class Hung(BaseException):
    """A command gives no answer."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs, a teacher, records, a grid, and files and folders where the other is meant."""
    path = tmp_path_factory.mktemp("typed") / "below" / "it"
    path.mkdir(parents=True)
    shutil.copytree(TESTS / "data/kept/runs", path / "runs")
    write_records(path / "records", [fake_record("ce", 1, 70.0, teacher=None), fake_record("kd", 1, 72.0)])
    write_search(path / "searched")
    publish(path / "records", path / "published", "us")
    (path / "g.toml").write_text(GRID)
    (path / "a-folder").mkdir()
    (path / "a-file").write_text("x")
    write_folder(path / "images")
    shutil.copy(TESTS / "parity/models/checkpoints/resnet8_c100.pth", path / "weights.pth")
    np.save(path / "logits.npy", np.zeros((1297, 10), np.float32))
    return path


@pytest.fixture(autouse=True)
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in that folder, and let nothing begin that takes long."""

    def reach(*_: Any, **__: Any) -> None:
        raise Reached

    for target in (
        "kdbench.engine.checks.networks.validate",
        "kdbench.engine.checks.validate.validate",
        "kdbench.engine.display.Display.__enter__",
        "kdbench.grid.workers.Workers.__init__",
        "kdbench.engine.bench.Bench.__init__",
        "kdbench.engine.export.export",
        "kdbench.analysis.report.write_report",
        "kdbench.analysis.plots.written.write_plots",
    ):
        monkeypatch.setattr(target, reach)
    for method in ("run_all", "build_caches"):
        monkeypatch.setattr(Session, method, reach)
    for variable in (own_folders.METHODS, own_folders.OWN):
        monkeypatch.setenv(variable, "")
    monkeypatch.chdir(folder)
    before = set(folder.rglob("*"))
    yield
    for made in sorted(set(folder.rglob("*")) - before, reverse=True):
        made.rmdir() if made.is_dir() and not made.is_symlink() else made.unlink()
    os.environ[own_folders.METHODS] = os.environ[own_folders.OWN] = ""


def typed(words: list[str]) -> tuple[int, str, str]:
    """Type a command; returns its exit code, output and errors; the traceback of any other end is among the errors."""

    def hang(*_: Any) -> None:
        raise Hung(f"no answer after {SECONDS} s")

    out, error = (
        io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace", newline="", write_through=True) for _ in range(2)
    )
    argv, handler = sys.argv, signal.signal(signal.SIGALRM, hang)
    sys.argv = ["kdbench", *words]
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            cli.main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    except Reached:
        code = 0
    except BaseException:
        code = 1
        error.write(traceback.format_exc())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        sys.argv = argv
    texts = [stream.buffer.getvalue().decode() for stream in (out, error)]  # type: ignore[attr-defined]
    return code, texts[0], texts[1]


def fault(case: Case) -> str:
    """What is wrong with the answer to a bad value; empty if nothing is."""
    code, out, error = typed(case.words())
    if code not in (0, 2) or "Traceback" in error:
        return f"exit code {code}: {error.strip()[-300:]}"
    if code == 0:
        senseless = NUMBERS[3:7] if case.is_number else [] if case.parameter in PATHS else ["", " "]
        return f"{case.value[:40]!r} is taken" if case.value in senseless else ""
    return fault_of_message(out, error, case.value)


def test_every_command_is_tried() -> None:
    assert PARAMETERS.keys() == COMMANDS.keys()
    assert len(CASES) == NUM_TRIED


def test_the_words_that_are_good_are_taken() -> None:
    """Otherwise a bad value could be refused for another reason."""
    for name in COMMANDS:
        code, _, error = typed(Case(name, "", "", False).words())
        assert "Traceback" not in error, name + error
        assert code == 0 or name in ("claims", "teacher import", "cache check", "track"), (name, error)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.once] * (number >= ALWAYS)) for number, case in enumerate(CASES)],
    ids=str,
)
def test_a_bad_value_is_answered_in_a_line(case: Case) -> None:
    assert not fault(case)
