"""A small folder of runs with every kind of file in it, the commands that read each, and what they print of it whole.

Folders are copied for each damage; commands are typed in this process, with a time limit.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest
from rich.console import Console

from kdbench import cli
from kdbench.engine.display import Display
from kdbench.engine.run import Run
from kdbench.experiment import own_folders
from kdbench.grid.grid import Grid
from kdbench.grid.submissions import Launch, Submission, SubmittedJob, new_folder
from kdbench.grid.worker import Worker, Workload
from kdbench.utils.holder import Holder, boot_id, holder_text
from kdbench.utils.scheduler import Scheduler

SECONDS = 45.0
"""A command that takes longer hangs."""
BASE = ["--protocol", "digits-demo-v1", "--data", "npz:data.npz", "--epochs", "2"]
TAUGHT = [*BASE, "--teacher", "resnet8", "--student", "resnet8"]
DEAD = 2**22 + 1
"""No process has this number."""
RUNS = "runs/digits-demo-v1"
DONE, BEGUN, FAILED = f"{RUNS}/resnet8-resnet8/kd/seed1", f"{RUNS}/resnet8-resnet8/kd/seed3", f"{RUNS}/*/dkd/seed1"
CACHE = "runs/teacher-cache/*"
GRID = """protocol = "digits-demo-v1"
data = "npz:data.npz"
epochs = 2
pairs = ["resnet8>resnet8"]
methods = [{methods}]
seeds = {seeds}
"""

READERS = {
    "table": ["table", "runs", "--format", "csv"],
    "leaderboard": ["leaderboard", "runs", "--format", "csv"],
    "compare": ["compare", "runs", "--format", "csv"],
    "search": ["search", "runs", "--trials", "--format", "csv"],
    "report": ["report", "runs", "--out", "../report"],
    "plot": ["plot", "losses", "runs", "--out", "../plots"],
    "grid status": ["grid", "status", "grid.toml"],
    "grid plan": ["grid", "plan", "grid.toml"],
    "status of a search": ["grid", "status", "search.toml"],
    "plan of a search": ["grid", "plan", "search.toml"],
    "teacher list": ["teacher", "list"],
    "cache list": ["cache", "list"],
    "eval": ["eval", f"{RUNS}/resnet8-resnet8/kd/seed1-*", f"{RUNS}/teachers/*", "--data", "npz:data.npz"],
    "verify": ["verify", "runs", "--data", "npz:data.npz", "--out", "../verified.md"],
    "show": ["--own", "own", "show", "mine"],
    "list": ["--own", "own", "list", "methods"],
}
"""Commands that only read."""
WRITERS = {
    "grid submit": ["grid", "submit", "done.toml", "--profile", "profile.toml"],
    "run of a search": ["grid", "run", "search.toml"],
    "cache prune": ["cache", "prune"],
    "cache build": ["cache", "build", *BASE, "--teacher", "resnet8", "--method", "kd", "--seed", "4"],
    "teacher train": ["teacher", "train", *BASE, "--network", "resnet8"],
    "train done": ["train", *TAUGHT, "--method", "kd"],
    "train begun": ["train", *TAUGHT, "--method", "kd", "--seed", "3"],
    "merge": ["merge", "runs", "--runs", "merged"],
    "train own": ["--own", "own", "train", *TAUGHT, "--method", "mine"],
}
COMMANDS = READERS | WRITERS
_TABLES = ("table", "leaderboard", "compare", "report")
_GRIDS = ("grid status", "grid plan")
_SEARCHES = (*_TABLES, "search", "merge", "status of a search", "plan of a search", "run of a search")
SEARCH = f"{RUNS}/searches/dist-resnet8-study1-*"
_CACHES = ("table", "grid plan", "cache list", "cache prune", "cache build", "train begun")

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "record": (f"{DONE}-*/record.json", (*_TABLES, *_GRIDS, "train done", "cache prune", "merge", "eval", "verify")),
    "teacher's record": (
        f"{RUNS}/none-resnet8/ce/seed0-*/record.json",
        ("table", *_GRIDS, "teacher train", "eval", "verify"),
    ),
    "config of a done cell": (f"{DONE}-*/config.toml", ("table", "grid status", "train done", "verify")),
    "metrics of a done cell": (f"{DONE}-*/metrics.jsonl", ("report", "grid status", "train done", "verify")),
    "weights of a done cell": (
        f"{DONE}-*/model.safetensors",
        ("table", "grid status", "train done", "merge", "eval", "verify"),
    ),
    "predictions of a done cell": (
        f"{DONE}-*/predictions.npz",
        ("report", "table", "grid status", "train done", "merge", "verify"),
    ),
    "weights of a teacher's cell": (
        f"{RUNS}/none-resnet8/ce/seed0-*/model.safetensors",
        ("teacher train", "merge", "verify"),
    ),
    "config of a begun cell": (f"{BEGUN}-*/config.toml", (*_TABLES, *_GRIDS, "train begun")),
    "metrics of a begun cell": (f"{BEGUN}-*/metrics.jsonl", ("report", "grid status", "train begun")),
    "state": (f"{BEGUN}-*/state", (*_GRIDS, "train begun")),
    "previous state": (f"{BEGUN}-*/state.previous", ("grid status", "train begun")),
    "lease": (f"{BEGUN}-*/claim-1", ("table", *_GRIDS, "train begun")),
    "reason of a failure": (f"{FAILED}-*/failed.json", (*_TABLES, *_GRIDS)),
    "teacher's card": (
        f"{RUNS}/teachers/*/teacher.json",
        ("grid status", "teacher list", *_CACHES, "teacher train", "merge", "eval", "verify"),
    ),
    "teacher's weights": (
        f"{RUNS}/teachers/*/model.safetensors",
        ("teacher list", "train begun", "teacher train", "merge", "eval", "verify"),
    ),
    "identity of a cache": (f"{CACHE}/identity.json", _CACHES),
    "use lock": (f"{CACHE}/use.lock", _CACHES),
    "segment": (f"{CACHE}/WHOLE/segment.json", _CACHES),
    "pairs": (f"{CACHE}/WHOLE/pairs.npy", _CACHES),
    "logits": (f"{CACHE}/WHOLE/logits.npy", _CACHES),
    "progress": (f"{CACHE}/*.partial/progress.json", _CACHES),
    "partial pairs": (f"{CACHE}/*.partial/pairs.npy", _CACHES),
    "partial logits": (f"{CACHE}/*.partial/logits.npy", _CACHES),
    "own method": ("own/methods/mine.py", ("show", "list", "train own", "table")),
    "own recipe": ("own/methods/mine.toml", ("show", "list", "train own", "table")),
    "grid": ("grid.toml", _GRIDS),
    "profile": ("profile.toml", ("grid submit",)),
    "submission": (f"{RUNS}/grids/grid/0001-local/submission.json", (*_GRIDS, "table")),
    "worker's lease": (f"{RUNS}/grids/grid/0001-local/worker-1/claim-1", _GRIDS),
    "worker's end": (f"{RUNS}/grids/grid/0001-local/worker-1/ended.json", _GRIDS),
    "study": (f"{SEARCH}/study.json", _SEARCHES),
    "choice of the best": (f"{SEARCH}/2-trials-best.json", _SEARCHES),
    "choice": (f"{SEARCH}/2-trials-chosen.json", _SEARCHES),
    "data": ("data.npz", ("train begun", "grid plan", "eval", "verify")),
}
"""Each kind of file: where it is, and the commands that read it or pass by it."""


class Hang(BaseException):
    """A command was too slow. No handler of kdbench catches it."""


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int | None
    """None where an error or the time limit ended it."""
    out: str
    err: str
    trace: str = ""

    @property
    def place(self) -> str:
        """The last line of kdbench in the traceback, and the error."""
        places = re.findall(r'File ".*?/((?:kdbench|methods|slurm)/\S+\.py)", line (\d+), in (\w+)', self.trace)
        where = " ".join(places[-1]) if places else "?"
        return f"{where}: {self.trace.strip().splitlines()[-1][:160]}"


def _raise_hang(signum: int, frame: FrameType | None) -> NoReturn:
    raise Hang


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `Hang` in the main thread after so many seconds."""
    before = signal.signal(signal.SIGRTMIN, _raise_hang)
    main = threading.main_thread().ident
    assert main
    timer = threading.Timer(seconds, signal.pthread_kill, (main, signal.SIGRTMIN))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGRTMIN, before)


def type_in(folder: Path, words: list[str], seconds: float = SECONDS) -> Ending:
    """Type a command in a folder, with patterns for what is there; what it sets is undone."""
    for module in [name for name in sys.modules if name.startswith("kdbench.experiment.user_methods.")]:
        del sys.modules[module]
    out, err, trace = io.StringIO(), io.StringIO(), ""
    code: int | None = None
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        spelt = [next(map(str, Path().glob(word)), word) if "*" in word else word for word in words]
        patch.setattr(sys, "argv", ["kdbench", *spelt])
        patch.setenv(own_folders.METHODS, "")
        patch.setenv(own_folders.OWN, "")
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limited(seconds):
                cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except (Hang, Exception):
            trace = traceback.format_exc()
    return Ending(code, out.getvalue(), err.getvalue(), trace or _printed_trace(err.getvalue()))


def _printed_trace(text: str) -> str:
    return text if "Traceback (most recent call last)" in text else ""


@contextlib.contextmanager
def stopped_in(owner: type, name: str) -> Iterator[None]:
    """Send this process SIGTERM whenever a method has been called."""
    method = getattr(owner, name)

    def wrapped(*given: Any) -> Any:
        result = method(*given)
        signal.raise_signal(signal.SIGTERM)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        yield


def _typed(folder: Path, *words: str, code: int = 0) -> Ending:
    ending = type_in(folder, list(words), 10 * SECONDS)
    assert ending.code == code, f"{words}: {ending}"
    return ending


def _dead_holder(token: str) -> str:
    return holder_text(
        Holder(token=token, host="here", boot=boot_id(), pid=DEAD, job=None, since=1.7e9, mark=0, crashes=0)
    )


def build(folder: Path, npz: Path, profile: Path) -> None:
    """Write every kind of file, with the commands that write them."""
    shutil.copy(npz, folder / "data.npz")
    shutil.copy(profile, folder / "profile.toml")
    _typed(folder, "new", "mine", "--dir", "own")
    _typed(folder, *WRITERS["teacher train"])
    kd = ["--method", "kd"]
    _typed(folder, "cache", "build", *BASE, "--teacher", "resnet8", *kd, "--seed", "1", "--seed", "2", "--seed", "3")
    _typed(folder, "train", *TAUGHT, "--method", "ce", *kd, "--seed", "1", "--seed", "2")
    _typed(folder, "train", *TAUGHT, "--method", "dkd", "--set", "beta=1e30", code=2)
    with stopped_in(Run, "end_epoch"):
        _typed(folder, *WRITERS["train begun"], "--save-every", "0", code=128 + signal.SIGTERM)
    with stopped_in(Display, "progress"):
        _typed(folder, *WRITERS["cache build"], code=128 + signal.SIGTERM)
    (folder / "grid.toml").write_text(GRID.format(methods='"ce", "kd", "dkd"', seeds=3) + "[method.dkd]\nbeta = 1e30\n")
    (folder / "done.toml").write_text(GRID.format(methods='"ce", "kd"', seeds=2))
    (folder / "search.toml").write_text(GRID.format(methods='"dist"', seeds=1) + "[search]\ntrials = 2\nepochs = 1\n")
    (begun,) = folder.glob(f"{BEGUN}-*")
    (begun / "claim-1").write_text(_dead_holder("a"))
    with contextlib.chdir(folder):
        grid, launch = Grid.open(Path("grid.toml"), runs=Path("runs")), Launch()
        place = new_folder(grid, "local")
        job = SubmittedJob("worker-1", "all", tuple(cell.id for cell in grid.cells))
        search = Grid.open(Path("search.toml"), runs=Path("runs"))
        search.search.write()
        session = launch.session(search)
        workload = Workload(session=session, cells=search.cells, slots=tuple(search.waiting))
        report = Worker(workload, Scheduler(), Display(Console(quiet=True))).run()
        assert report.left == report.failed == []
        Submission(folder=place, launcher="local", cluster="", profile={}, launch=launch, jobs=(job,)).write()
    worker = place / "worker-1"
    worker.mkdir()
    (worker / "claim-1").write_text(_dead_holder("b"))
    (worker / "ended.json").write_text('{"stopped": 15}\n')


def place_of(folder: Path, pattern: str) -> Path:
    """The one file that a pattern of `KINDS` means."""
    if "WHOLE" in pattern:
        (whole,) = (path for path in folder.glob(pattern.replace("WHOLE", "*")) if ".partial" not in str(path))
        return whole
    (path,) = folder.glob(pattern)
    return path
