"""What killed processes leave is removed by whoever comes next, and what live ones use is not."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

import pytest
from cells import Typed
from fake_records import record_of
from test_cancel import make_grid, submit

from kdbench.engine.run_state import tidy_ended
from kdbench.experiment.folder import RECORD, STATE
from kdbench.grid.code_copy import CODE
from kdbench.grid.submissions import new_folder
from kdbench.utils import files
from kdbench.utils.files import sweep, temporary_file, write_atomic
from kdbench.utils.leases import Busy, Leases, tidy
from kdbench.utils.scheduler import Scheduler


def dead_file(folder: Path, name: str) -> Path:
    """A temporary file as a killed process leaves it."""
    with temporary_file(folder, name) as (path, _):
        pass
    path.write_text("half")
    return path


def dead_lease(folder: Path, number: int = 1) -> None:
    """A lease as a killed process leaves it: nobody has locked it."""
    with Leases() as leases:
        text = leases.hold(folder).path.read_text()
    (folder / f"claim-{number}").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_write_removes_what_earlier_ones_of_the_same_file_left(tmp_path: Path) -> None:
    left, other = dead_file(tmp_path, "a[1].json"), dead_file(tmp_path, "b.json")
    with temporary_file(tmp_path, "a[1].json") as (live, _):
        write_atomic(tmp_path / "a[1].json", "whole")
        assert names(tmp_path) == sorted(["a[1].json", other.name, live.name])
    assert not left.exists()


def test_a_file_of_another_program_or_machine_is_left_alone(tmp_path: Path) -> None:
    """Of another machine the lock may not be seen: only its age tells."""
    foreign = tmp_path / ".a.json.another-0123abcd.tmp"
    foreign.write_text("")
    (tmp_path / ".a.json.swp").write_text("")
    (tmp_path / "a.json.tmp").write_text("")
    assert sweep(tmp_path) == 0
    assert foreign.exists()
    then = time.time() - 2 * files._OLD_SECONDS
    os.utime(foreign, (then, then))
    sweep(tmp_path)
    assert names(tmp_path) == [".a.json.swp", "a.json.tmp"]


def test_a_file_that_was_swept_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, swept = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            (path,) = tmp_path.iterdir()
            swept.append(path)
            path.unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    write_atomic(tmp_path / "a", "whole")
    assert swept
    assert names(tmp_path) == ["a"]


def test_the_holder_of_a_folder_sweeps_it(tmp_path: Path) -> None:
    segment = tmp_path / "0123.partial"
    segment.mkdir()
    dead_file(segment, "progress.json")
    dead_file(tmp_path, "identity.json")
    (tmp_path / ".state.new.e_lqp3kw.tmp").write_text("of an earlier version")
    with temporary_file(tmp_path, "claim") as (draft, _), Leases() as leases:
        leases.hold(tmp_path)
        assert names(tmp_path) == [draft.name, "0123.partial", "claim-1"]
        assert not names(segment)


def test_a_draft_that_a_new_holder_has_swept_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(source: Path, target: Path) -> None:
        Path(source).unlink()
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with Leases() as leases, pytest.raises(Busy, match="was just taken by another process"):
        leases.hold(tmp_path)


@pytest.mark.parametrize("ended", [True, False])
def test_a_cell_that_was_killed_after_its_record_is_tidied(ended: bool, tmp_path: Path) -> None:
    for name in (STATE, f"{STATE}.previous", f"{STATE}.new", "metrics.jsonl"):
        (tmp_path / name).write_text("")
    dead_lease(tmp_path)
    dead_file(tmp_path, RECORD)
    if ended:
        (tmp_path / RECORD).write_text("{}")
    with Leases() as leases:
        leases.hold(tmp_path)
        before = names(tmp_path)
        tidy_ended(tmp_path, Scheduler())
        assert names(tmp_path) == before, "a live process holds it"
    dead_lease(tmp_path, 3)
    tidy_ended(tmp_path, Scheduler())
    states = [] if ended else [STATE, f"{STATE}.new", f"{STATE}.previous"]
    assert names(tmp_path) == sorted(["metrics.jsonl", *([RECORD] if ended else []), *states])


def test_a_tidy_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("{}")
    before = tmp_path.stat().st_mtime_ns
    tidy(tmp_path, Scheduler(), [STATE])
    assert tmp_path.stat().st_mtime_ns == before
    tidy(tmp_path / "nothing", Scheduler())
    assert names(tmp_path) == [RECORD]


def test_a_run_removes_what_killed_runs_left(typed: Typed) -> None:
    """Code of submissions without live workers, leases, states of finished cells, submissions that never began."""
    grid = make_grid(methods=["ce"], seeds=1)
    (cell,) = grid.cells
    folder = cell.folder(Path("runs"))
    folder.mkdir(parents=True)
    for name, text in ((RECORD, json.dumps(record_of(cell, 50.0))), (STATE, "")):
        (folder / name).write_text(text)
    dead_lease(folder)
    killed, working, starting = (submit(grid, {"worker-1": grid.cells}).folder for _ in range(3))
    unbegun, begun = new_folder(grid, "local"), new_folder(grid, "local")
    for place in (killed, working, starting, unbegun, begun):
        (place / CODE).mkdir()
        (place / "worker-1").mkdir()
        (place / "worker-1" / "1_0_log.out").write_text("")
    dead_lease(killed / "worker-1")
    dead_lease(killed)
    with Leases() as leases:
        for place in (working / "worker-1", starting, begun):
            leases.hold(place)
        assert "1 done" in typed("grid", "status", "grid.toml")[1]
        assert (folder / STATE).exists(), "to look changes nothing"
        code, out, _ = typed("grid", "run", "grid.toml")
        assert (code, "nothing is left to run" in out) == (0, True)
        assert names(folder) == [RECORD]
        assert names(killed) == ["submission.json", "worker-1"]
        assert names(killed / "worker-1") == ["1_0_log.out"]
        assert all((place / CODE).exists() for place in (working, starting, begun))
        assert not unbegun.exists()
