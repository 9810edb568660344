"""Whatever happened to a grid since it was submitted, its jobs are found, shown and stopped."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cells import Typed
from fake_records import record_of

from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import FAILURE, RECORD
from kdbench.grid.grid import Grid
from kdbench.grid.submissions import Launch, Submission, SubmittedJob, new_folder
from kdbench.teachers.cards import TeacherCard, folder_of
from kdbench.utils.leases import Leases
from kdbench.utils.signals import Stop

SLURM = """#!/bin/sh
case $(basename $0) in
  scontrol) echo "ClusterName = here" ;;
  squeue) cat {folder}/queue ;;
  scancel) echo "$@" >> {folder}/cancelled ;;
esac
"""


def make_grid(name: str = "grid", **keys: Any) -> Grid:
    lines = {"protocol": "digits-demo-v1", "pairs": ["resnet14>resnet8"], "methods": ["ce", "kd"], "seeds": 2}
    path = Path(f"{name}.toml")
    path.write_text(tomli_w.dumps(lines | keys))
    return Grid.open(path, runs=Path("runs"))


def submit(grid: Grid, jobs: dict[str, Sequence[Cell]], launcher: Any = "local", **more: Any) -> Submission:
    """A submission on disk, whose jobs run cells; a job without cells builds caches."""
    submitted = tuple(SubmittedJob(job, "all", tuple(cell.id for cell in cells)) for job, cells in jobs.items())
    submission = Submission(
        folder=new_folder(grid, launcher),
        launcher=launcher,
        cluster="",
        profile=more.get("profile", {}),
        launch=more.get("launch", Launch()),
        jobs=submitted,
        file=str(grid.file.path.absolute()),
    )
    submission.write()
    return submission


def train(grid: Grid) -> None:
    """Make the grid's teacher, as if its cell had just been finished."""
    (cell,) = grid.to_train
    card = TeacherCard(
        network=cell.student,
        id=cell.as_teacher.id,
        dataset=grid.session.protocol.dataset,
        weights="0",
        accuracy=50.0,
        expected=None,
        origin="trained here",
        epochs=1,
    )
    folder = folder_of(grid.session.runs, grid.session.protocol.name) / "resnet14"
    folder.mkdir(parents=True)
    (folder / "teacher.json").write_text(json.dumps(asdict(card)))


@pytest.fixture
def cancelled(typed: Typed) -> Any:
    """Cancel a grid while this process plays its workers; returns what was printed, and whether it was signalled."""

    def run(*held: Path, name: str = "grid") -> tuple[str, bool]:
        with Leases() as leases, Stop() as stop:
            for folder in held:
                leases.hold(folder)
            code, out, err = typed("grid", "cancel", f"{name}.toml")
            assert (code, err) == (0, "")
            signalled = stop.signum
            stop.signum = None
        assert signalled in (None, signal.SIGTERM)
        return out, signalled is not None

    return run


@pytest.mark.parametrize("change", ["nothing", "trained", "narrowed", "all done"])
def test_a_worker_is_stopped_whatever_its_grid_has_become(change: str, cancelled: Any, typed: Typed) -> None:
    grid = make_grid()
    submission = submit(grid, {"worker-1": [*grid.to_train, *grid.cells]})
    if change == "trained":
        train(grid)
    if change in ("narrowed", "all done"):
        make_grid(methods=["ce"], seeds=1)
    if change == "all done":
        (cell,) = (cell for cell in grid.cells if cell.method == "ce" and cell.seed == 1)
        cell.folder(Path("runs")).mkdir(parents=True)
        (cell.folder(Path("runs")) / RECORD).write_text(json.dumps(record_of(cell, 50.0)))
    out, signalled = cancelled(submission.folder / "worker-1")
    assert out.startswith(f"stopping worker-1 (process {os.getpid()}), which saves its running cells\n")
    assert signalled
    assert "nothing to cancel" in cancelled()[0], "no worker is alive"


def test_every_submission_is_looked_at(cancelled: Any, typed: Typed) -> None:
    """A second submission of a narrowed file hides nothing of the first, in the view and for the command."""
    grid = make_grid()
    first = submit(grid, {"worker-1": grid.cells, "worker-2": grid.cells})
    second = submit(make_grid(methods=["ce"]), {"worker-1": [cell for cell in grid.cells if cell.method == "ce"]})
    make_grid()
    out, _ = cancelled(*(first.folder / f"worker-{number}" for number in (1, 2)), second.folder / "worker-1")
    assert out.count("stopping worker-1") == 2
    assert out.count("stopping worker-2") == 1
    with Leases() as leases:
        leases.hold(first.folder / "worker-1")
        assert "4 cells: 4 queued" in typed("grid", "status", "grid.toml")[1]
    with Leases() as leases:
        leases.hold(second.folder / "worker-1")
        assert "4 cells: 2 queued, 2 to do" in typed("grid", "status", "grid.toml")[1]


def test_jobs_with_cells_of_other_grids_are_spared_and_named(cancelled: Any) -> None:
    grid = make_grid()
    other = make_grid("other", methods=["ce", "kd", "dkd"])
    mixed = submit(other, {"worker-1": other.cells, "worker-2": grid.cells[:1], "worker-3": other.cells[-1:]})
    out, signalled = cancelled(*(mixed.folder / f"worker-{number}" for number in (1, 3)))
    assert not signalled
    assert out == (
        f"spared worker-1, which has cells of {Path('other.toml').absolute()} that are not of this grid: type "
        f"'kill {os.getpid()}' on {os.uname().nodename} to stop it\n"
    )
    out, signalled = cancelled(mixed.folder / "worker-2")
    assert "stopping worker-2" in out
    assert signalled


def test_a_grid_of_the_same_name_elsewhere_is_another_one(cancelled: Any) -> None:
    Path("there").mkdir()
    theirs = make_grid("there/grid", methods=["dkd"])
    submission = submit(theirs, {"worker-1": theirs.cells})
    make_grid()
    assert cancelled(submission.folder / "worker-1")[0].startswith("nothing to cancel")
    Path("there/grid.toml").rename("moved.toml")
    make_grid(methods=["ce"])
    out, _ = cancelled(submission.folder / "worker-1")
    assert out.startswith("stopping worker-1"), "the file was moved: its name decides"


def test_a_process_of_no_submission_is_named(cancelled: Any) -> None:
    grid = make_grid()
    out, signalled = cancelled(*(cell.folder(Path("runs")) for cell in grid.cells[:2]))
    assert not signalled
    assert re.fullmatch(
        rf"spared process {os.getpid()} on .* since .*, which runs 2 cells but was not started by a submission: type "
        rf"'kill {os.getpid()}' on \S+ to stop it\n",
        out,
    )


def test_a_worker_elsewhere_keeps_no_other_from_being_stopped(typed: Typed) -> None:
    grid = make_grid()
    submission = submit(grid, {"worker-1": grid.cells, "worker-2": grid.cells})
    with Leases() as leases, Stop() as stop:
        far = leases.hold(submission.folder / "worker-1").path
        leases.hold(submission.folder / "worker-2")
        far.write_text(json.dumps(json.loads(far.read_text()) | {"boot": "another", "host": "far"}))
        code, out, err = typed("grid", "cancel", "grid.toml")
        assert stop.signum == signal.SIGTERM
        stop.signum = None
    assert code == 2
    assert out.startswith("stopping worker-2")
    assert re.fullmatch(r"kdbench: worker-1 is process \d+ on far since .*: type the same command on far\n", err)


@pytest.fixture
def queue(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm whose queue is a file; returns its folder."""
    for name in ("scontrol", "squeue", "scancel", "sacct"):
        (tmp_path / name).write_text(SLURM.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "queue").touch()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_jobs_of_several_cells_are_cancelled_after_narrowing(queue: Path, typed: Typed) -> None:
    grid = make_grid()
    jobs: dict[str, Sequence[Cell]] = {"6_0": [], "7_0": grid.cells[:2], "7_1": grid.cells[2:], "7_2": grid.cells[:1]}
    submit(grid, jobs, "slurm")
    (queue / "queue").write_text("6_0|RUNNING|0|None\n7_0|PENDING|0|None\n7_1|RUNNING|0|None\n7_2|FAILED|0|None\n")
    make_grid(methods=["kd"], seeds=1)
    assert "1 cell: 1 queued" in typed("grid", "status", "grid.toml")[1]
    code, out, _ = typed("grid", "cancel", "grid.toml")
    assert code == 0
    assert out.startswith("cancelled 3 Slurm jobs\n")
    assert (queue / "cancelled").read_text() == "6_0 7_0 7_1\n"


def test_a_live_job_of_an_older_submission_is_shown_and_cancelled(queue: Path, typed: Typed) -> None:
    """The later one ran on this machine and is over."""
    grid = make_grid(seeds=1)
    submit(grid, {"7_0": grid.cells}, "slurm")
    submit(grid, {"worker-1": grid.cells})
    (queue / "queue").write_text("7_0|PENDING|0|Priority\n")
    assert "job 7_0 PENDING (Priority)" in typed("grid", "status", "grid.toml")[1]
    out = typed("grid", "run", "grid.toml")[1]
    assert "skipped 2 cells, queued or running already" in out
    assert "cancelled 1 Slurm job\n" in typed("grid", "cancel", "grid.toml")[1]
    (queue / "queue").write_text("")
    assert "2 cells: 2 to do" in typed("grid", "status", "grid.toml")[1]


def test_failed_cells_are_retried_as_each_was_last_started(
    queue: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two profiles of Slurm, and two ways of this machine, of which the last one counts."""
    grid = make_grid(methods=["ce"], seeds=5)
    profile = {"path": "p.toml", "stages": {"students": {"together": 1, "setup": []}}}
    small, large = (profile | {"path": path} for path in ("small.toml", "large.toml"))
    submit(grid, {"7_0": grid.cells[:1], "7_1": grid.cells[1:2]}, "slurm", profile=small)
    submit(grid, {"8_0": grid.cells[1:2]}, "slurm", profile=large)
    submit(grid, {"worker-1": grid.cells[3:]}, launch=Launch(lockstep=3))
    submit(grid, {"worker-1": grid.cells[2:3]}, launch=Launch(lockstep=2, cache="off"))
    for cell in grid.cells:
        cell.folder(Path("runs")).mkdir(parents=True)
        (cell.folder(Path("runs")) / FAILURE).write_text("{}")
    starts: list[tuple[set[int], str, Launch]] = []

    def start(_: Any, cells: Sequence[Cell], profile: Any, launch: Launch, *, stay: bool) -> None:
        starts.append(({cell.seed for cell in cells}, profile.path if profile else "here", launch))

    monkeypatch.setattr("kdbench.cli.grid_running.start", start)
    assert typed("grid", "retry", "grid.toml")[0] == 0
    assert starts == [
        ({1}, "small.toml", Launch()),
        ({2}, "large.toml", Launch()),
        ({3, 4, 5}, "here", Launch(lockstep=2, cache="off")),
    ]
    assert not list(Path("runs").glob(f"**/{FAILURE}"))
    for cell in grid.cells:
        (cell.folder(Path("runs")) / FAILURE).write_text("{}")
    starts.clear()
    assert typed("grid", "retry", "grid.toml", "--jobs", "3")[0] == 0
    assert starts == [({1, 2, 3, 4, 5}, "here", Launch(lockstep=2, cache="off", jobs=3))]
