"""Jobs that have slots of a search: who else takes them, what they wait for, and how they are stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from rich.console import Console
from searched_grids import open_search, run_all, score

from kdbench.cli.grid_running import OpenGrid
from kdbench.engine.display import Display
from kdbench.experiment.folder import RECORD
from kdbench.grid.grid import Grid
from kdbench.grid.overview import Overview, read_overview
from kdbench.grid.submissions import Launch, Submission, SubmittedJob, new_folder
from kdbench.grid.worker import Worker, Workload
from kdbench.search.choices import Choices
from kdbench.slurm.profile import load_profile
from kdbench.slurm.submit import Submitter
from kdbench.utils.leases import Leases
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.signals import Stop

PAIRS = ["resnet14>resnet8", "resnet20>resnet8"]


def submit_slots(grid: Grid) -> Path:
    """A submission on disk with one worker that has all slots and no cell; returns the folder that it holds."""
    job = SubmittedJob("worker-1", "all", (), tuple(slot.key for slot in grid.waiting))
    folder = new_folder(grid, "local")
    path = str(grid.file.path.absolute())
    Submission(folder=folder, launcher="local", cluster="", profile={}, launch=Launch(), jobs=(job,), file=path).write()
    (folder / job.id).mkdir()
    return folder / job.id


def test_a_live_job_has_its_slots(tmp_path: Path) -> None:
    """Workers on this machine share them; on Slurm they are not submitted a second time."""
    grid = open_search(tmp_path)
    held = submit_slots(grid)
    with Leases() as leases:
        leases.hold(held)
        overview = read_overview(grid, Scheduler())
        assert overview.taken == dict.fromkeys((slot.key for slot in grid.waiting), "local")
        opened = OpenGrid(None, grid, overview)  # type: ignore[arg-type]
        assert opened.slots_to_run(slurm=True) == []
        assert opened.slots_to_run(slurm=False) == grid.waiting
    assert read_overview(grid, Scheduler()).taken == {}


def test_a_job_that_has_slots_alone_is_cancelled(typed: Typed) -> None:
    grid = open_search(Path().absolute())
    held = submit_slots(grid)
    with Leases() as leases, Stop() as stop:
        leases.hold(held)
        code, out, err = typed("grid", "cancel", "grid.toml")
        assert (code, err) == (0, "")
        assert stop.signum == signal.SIGTERM
        stop.signum = None
    assert "stopping worker-1" in out


def test_slots_wait_for_the_teacher_of_their_own_pair(tmp_path: Path) -> None:
    """Settings are searched on one pair: the teacher of another may be trained as long as that takes."""
    grid = open_search(tmp_path, {"on": PAIRS[:1]}, pairs=PAIRS)
    (tmp_path / "profile.toml").write_text("[students]\ncells_per_job = 9\n")
    nothing: dict[str, Any] = {"statuses": [], "teachers": [], "jobs": {}, "live": [], "over": [], "taken": {}}
    overview = Overview(**nothing, damages={}, problem="")
    submitter = Submitter(grid, overview, load_profile(tmp_path / "profile.toml"), Launch())
    ids = {cell.student: cell.as_teacher.id for cell in grid.to_train}
    teachers, caches = {ids["resnet14"]: "14", ids["resnet20"]: "20"}, {ids["resnet20"]: "21"}
    finals = [slot for slot in grid.waiting if slot.stage == "final"]
    pieces = submitter._slot_pieces(finals, ["7_0", "7_1"], teachers, caches)
    assert [(piece.dependency, len(piece.workload.slots)) for piece in pieces] == [
        *(("afterok:14,afterany:7", 2), ("afterok:20,afterany:21,afterany:7", 2)),
    ]


def test_slots_that_stand_for_the_same_cell_are_all_submitted(tmp_path: Path) -> None:
    """Of the second pair: settings chosen there, and those of the first one."""
    grid = open_search(tmp_path, pairs=PAIRS, seeds=1)
    (tmp_path / "profile.toml").write_text("")
    nothing: dict[str, Any] = {"statuses": [], "teachers": [], "jobs": {}, "live": [], "over": [], "taken": {}}
    submitter = Submitter(
        grid, Overview(**nothing, damages={}, problem=""), load_profile(tmp_path / "profile.toml"), Launch()
    )
    pieces = submitter._slot_pieces(grid.waiting, [], {}, {})
    assert sorted(slot.key for piece in pieces for slot in piece.workload.slots) == sorted(
        slot.key for slot in grid.waiting
    )


def test_a_worker_that_cannot_fill_its_slots_says_why(tmp_path: Path) -> None:
    """A trial was cancelled: the job ends at once. A file that is damaged is named."""
    grid = open_search(tmp_path)
    for cell in grid.search.cells[1:]:
        score(cell, grid.session.runs, 50.0)
    session = Launch().session(grid)

    def work() -> Any:
        return Worker(
            Workload(session=session, slots=tuple(grid.waiting)), Scheduler(), Display(Console(quiet=True))
        ).run()

    report = work()
    assert report.left[0] == f"{grid.waiting[0]}: trials before it have not ended"
    assert len(report.left) == len(grid.waiting)
    (study,) = grid.search.studies
    grid.search.write()
    (study.folder(grid.session.runs) / "4-trials-best.json").write_text("{")
    report = work()
    assert report.left == []
    assert len(report.failed) == 1
    assert "4-trials-best.json is damaged" in report.failed[0]


@pytest.mark.parametrize("command", ["status", "plan", "run"])
def test_files_of_a_search_that_are_damaged_are_named(command: str, typed: Typed) -> None:
    """And nothing is lost: what was there is there afterwards."""
    grid = run_all(open_search(Path().absolute()))
    for name in ("study.json", "4-trials-best.json", "4-trials-chosen.json"):
        (path,) = Path("runs").glob(f"*/searches/*/{name}")
        whole = path.read_text()
        for text in ("", "[]", "{}", whole[:-5], whole.replace("50.0", "60.0").replace("kd_weight", "ce_weight")):
            path.write_text(text)
            code, out, err = typed("grid", command, "grid.toml")
            assert (code, err.count("\n")) == (2, 1), f"{name} {text[:9]}: {out}{err}"
            assert f"{path} is damaged (" in err
            assert "away" in err
            assert path.read_text() == text
        path.write_text(whole)
    assert typed("grid", command, "grid.toml")[0] == 0
    assert all((cell.folder(grid.session.runs) / RECORD).exists() for cell in grid.cells)


def test_a_trial_that_failed_can_be_run_again_before_the_choice(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = open_search(Path().absolute())
    trials = grid.search.cells
    score(trials[1], grid.session.runs, None)
    started: list[Any] = []
    monkeypatch.setattr("kdbench.cli.grid_running.start", lambda _, cells, *rest, **__: started.extend(cells))
    assert typed("grid", "retry", "grid.toml")[0] == 0
    assert [cell.id for cell in started] == [trials[1].id]
    for number, cell in enumerate(trials):
        score(cell, grid.session.runs, 90.0 if number == 1 else 50.0)
    assert Choices(grid.session.runs, writes=False).taken(grid.search.studies[0], "best") == (1, 0, 2)


def test_a_trial_whose_record_is_damaged_has_not_failed(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """It blocks the choice until it is run again, and is not said to rank last."""
    grid = open_search(Path().absolute())
    for cell in grid.cells:
        score(cell, grid.session.runs, 50.0)
    (grid.search.cells[2].folder(grid.session.runs) / RECORD).write_text("{")
    monkeypatch.setattr("kdbench.cli.grid_running.OpenGrid.slots_to_run", lambda *_, **__: [])
    code, out, err = typed("grid", "run", "grid.toml")
    assert code == 2
    assert "ranked last" not in out
    assert "1 failed of 6 cells" in err


def test_looking_writes_nothing(typed: Typed) -> None:
    open_search(Path().absolute())
    for command in ("status", "plan"):
        assert typed("grid", command, "grid.toml")[0] == 0
    assert [path.name for path in Path().iterdir()] == ["grid.toml"]
