"""Searches that really train: by workers in this process, killed on the way, in lockstep, by two workers at once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from cells import Typed, share_teachers
from damaged_runs import stopped_in
from rich.console import Console
from searched_grids import write_search

from kdbench.engine.display import Display
from kdbench.engine.run import Run
from kdbench.errors import Interrupted
from kdbench.experiment.folder import METRICS, RECORD, parse_record
from kdbench.grid.grid import Grid
from kdbench.grid.worker import Worker, WorkerReport, Workload
from kdbench.utils.scheduler import Scheduler

DIVERGES = {"kd": {"kd_weight": [1e38, 1.0], "temperature": {"low": 2, "high": 8, "scale": "log"}}}
RULES = {"learning_rate": {"low": 0.5, "high": 2, "scale": "log"}}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, tiny_npz: Path) -> Path:
    runs = tmp_path_factory.mktemp("teachers")
    grid = Grid.open(write_search(runs / "grid.toml", data=f"npz:{tiny_npz}"), runs=runs / "runs", device="cpu")
    grid.session.train_teacher("resnet14")
    return runs / "runs"


def opened(folder: Path, npz: Path, teachers: Path, search: dict[str, Any] | None = None, **lines: Any) -> Grid:
    folder.mkdir(exist_ok=True)
    share_teachers(folder / "runs", teachers)
    file = write_search(folder / "grid.toml", search, data=f"npz:{npz}", **lines)
    return Grid.open(file, runs=folder / "runs", device="cpu")


def work(grid: Grid, *, lockstep: int = 1) -> WorkerReport:
    """Do all that is left of a grid, as a worker of ``grid run`` does."""
    session = {"protocol": grid.file.protocol, "data": grid.file.data, "epochs": grid.file.epochs, "device": "cpu"}
    workload = Workload(
        session=session | {"runs": grid.session.runs},
        caches=grid.cells,
        cells=grid.cells,
        slots=tuple(grid.waiting),
        lockstep=lockstep,
        shared=True,
    )
    grid.search.write()
    report = Worker(workload, Scheduler(), Display(Console(quiet=True))).run()
    grid.refresh()
    return report


def results(grid: Grid) -> dict[str, Any]:
    """What training decides, by the id of each cell."""
    folders = {cell.id: cell.folder(grid.session.runs) for cell in grid.cells}
    assert not grid.waiting
    return {
        key: (parse_record(path / RECORD)["weights"], (path / METRICS).read_text()) for key, path in folders.items()
    }


def choices(grid: Grid) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in grid.session.runs.glob("*/searches/*/*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_npz: Path, teachers: Path) -> Grid:
    """Rungs, and learning rates that are searched as well."""
    grid = opened(tmp_path_factory.mktemp("whole"), tiny_npz, teachers, {"rungs": [1, 2], "rules": RULES})
    report = work(grid)
    assert not report.failed
    assert not report.left
    return grid


def test_trials_are_chosen_among_and_what_was_chosen_is_trained_on_all_images(whole: Grid) -> None:
    """Only the seeds that are compared, and only the rules of the file."""
    assert len(results(whole)) == len({cell.id for cell in whole.cells})
    stages = {name: cells for name, (cells, _) in whole.search.stages().items()}
    assert {name: len(cells) for name, cells in stages.items()} == {"trials": 4, "rung-2": 2, "best": 4, "final": 2}
    ranking = [
        (-parse_record(cell.folder(whole.session.runs) / RECORD)["validation"]["top1"], number)
        for number, cell in enumerate(stages["trials"])
    ]
    better = {number for _, number in sorted(ranking)[:2]}
    (study,) = whole.search.studies
    assert {cell.id for cell in stages["rung-2"]} == {study.trial(number, 1, 10001).id for number in better}
    for cell in stages["final"]:
        record = parse_record(cell.folder(whole.session.runs) / RECORD)
        assert "validation" not in record
        assert cell.protocol.epochs == 2
    assert {cell.seed for cell in stages["final"]} == {1, 2}


def test_a_worker_that_is_stopped_after_every_epoch_ends_with_the_same(
    whole: Grid, tmp_path: Path, tiny_npz: Path, teachers: Path
) -> None:
    grid = opened(tmp_path, tiny_npz, teachers, {"rungs": [1, 2], "rules": RULES})
    stops = 0
    while True:
        try:
            with stopped_in(Run, "end_epoch"):
                work(grid)
            break
        except Interrupted:
            stops += 1
            grid = opened(tmp_path, tiny_npz, teachers, {"rungs": [1, 2], "rules": RULES})
    assert stops >= 14
    assert results(grid) == results(whole)
    assert choices(grid) == choices(whole)


def test_in_lockstep_records_are_the_same(whole: Grid, tmp_path: Path, tiny_npz: Path, teachers: Path) -> None:
    grid = opened(tmp_path, tiny_npz, teachers, {"rungs": [1, 2], "rules": RULES})
    work(grid, lockstep=4)
    assert results(grid) == results(whole)
    assert choices(grid) == choices(whole)
    records = [parse_record(cell.folder(grid.session.runs) / RECORD) for cell in grid.search.cells]
    assert {record["cost"]["cells_together"] for record in records} == {4}


def test_trials_read_the_cache_that_compared_runs_read(whole: Grid) -> None:
    for cell in whole.cells:
        assert parse_record(cell.folder(whole.session.runs) / RECORD)["cost"]["teacher_outputs"] == "cache"


def test_trials_that_diverge_rank_last_and_can_be_run_again(
    typed: Typed, tiny_npz: Path, teachers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is chosen is not changed by what ``retry`` runs again; choices that are lost are made anew, the same."""
    grid = opened(Path().absolute(), tiny_npz, teachers, {"space": DIVERGES}, seeds=1)
    report = work(grid)
    assert not report.left
    assert report.failed
    assert all("kd kd_weight=1e+38" in text and "diverged in epoch 1" in text for text in report.failed)
    before = choices(grid)
    assert json.loads(before["4-trials-chosen.json"])["settings"]["kd_weight"] < 1e38
    out = typed("grid", "run", "grid.toml")[1]
    number = len(report.failed)
    assert re.search(rf"^{number} trials? failed and so ranked last: type 'kdbench grid status grid.toml'", out, re.M)
    assert "nothing is left to run: type 'kdbench table runs' to compare the cells" in out
    started: list[Any] = []
    monkeypatch.setattr("kdbench.cli.grid_running.start", lambda _, cells, *rest, **__: started.extend(cells))
    assert typed("grid", "retry", "grid.toml")[0] == 0
    assert len(started) == number
    grid = opened(Path().absolute(), tiny_npz, teachers, {"space": DIVERGES}, seeds=1)
    assert len(work(grid).failed) == number
    assert choices(grid) == before
    shutil.rmtree(next(Path("runs").glob("*/searches")))
    grid = opened(Path().absolute(), tiny_npz, teachers, {"space": DIVERGES}, seeds=1)
    work(grid)
    assert choices(grid) == before


def test_two_workers_at_once(whole: Grid, tmp_path: Path, tiny_npz: Path, teachers: Path) -> None:
    """As two ``grid run`` are: no cell is run twice, both stay until all is done, and both see the same choices."""
    grid = opened(tmp_path, tiny_npz, teachers, {"rungs": [1, 2], "rules": RULES})
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            report = work(grid)
            (tmp_path / "child").write_text(f"{report.done} {report.failed} {report.left}")
        os._exit(0)
    report = work(grid)
    os.waitpid(child, 0)
    done, _, rest = (tmp_path / "child").read_text().partition(" ")
    assert rest == "[] []" == f"{report.failed} {report.left}"
    assert int(done) + report.done == len(whole.cells)
    assert results(grid) == results(whole)
    assert choices(grid) == choices(whole)
