"""Of several processes exactly one works on a folder, and one that is dead is found out."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from cells import make_run

from kdbench.engine.train import train_cells
from kdbench.experiment.folder import FAILURE, RECORD, STATE
from kdbench.utils import leases as claiming
from kdbench.utils.leases import MAX_CRASHES, STALE, Busy, Lease, Leases, Superseded, holder_of, living
from kdbench.utils.scheduler import Job, Scheduler

HOLD = """
import sys, time
from pathlib import Path
from kdbench.utils.leases import Busy, Leases
with Leases() as leases:
    try:
        leases.hold(Path(sys.argv[1]))
    except Busy:
        print("busy", flush=True)
    else:
        print("held", flush=True)
        sys.stdin.read()
"""


class Told(Scheduler):
    """A batch system that says what a test wants."""

    def __init__(self, own: Job | None = None, lives: dict[Job, bool] | None = None) -> None:
        self.own, self.lives = own, lives or {}

    def own_job(self) -> Job | None:
        return self.own

    def alive(self, jobs: Collection[Job]) -> dict[Job, bool]:
        return {job: lives for job, lives in self.lives.items() if job in jobs}


@pytest.fixture
def holders() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that hold a folder until they are told to stop."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(holders: list[subprocess.Popen[str]], folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    holders.append(process)
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def elsewhere(path: Path, **changes: Any) -> None:
    """Make a lease look as if another machine had made it."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "another", "host": "far"} | changes))


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_of_many_processes_one_holds_a_folder(tmp_path: Path, holders: list[subprocess.Popen[str]]) -> None:
    """Also when all of them find the same dead holder."""
    dead = start(holders, tmp_path)
    assert said(dead) == "held"
    dead.kill()
    dead.wait()
    found = [said(process) for process in [start(holders, tmp_path) for _ in range(6)]]
    assert sorted(found) == ["busy"] * 5 + ["held"]


def test_a_released_folder_is_free_and_leaves_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        with Leases() as leases:
            leases.hold(tmp_path)
            (path,) = tmp_path.iterdir()
            assert path.name == "claim-1"
        assert not list(tmp_path.iterdir())


def test_a_killed_process_is_dead_at_once_and_its_stopped_neighbour_is_not(
    tmp_path: Path, holders: list[subprocess.Popen[str]]
) -> None:
    one, two = start(holders, tmp_path / "one"), start(holders, tmp_path / "two")
    assert said(one) == said(two) == "held"
    one.kill()
    one.wait()
    two.send_signal(signal.SIGSTOP)
    for name in ("one", "two"):
        age(tmp_path / name / "claim-1", 2 * STALE)  # a heart that stands still is no proof on the same machine
    with Leases() as leases:
        assert leases.hold(tmp_path / "one").path.name == "claim-2"
        with pytest.raises(Busy, match=rf"is being run by process {two.pid} on .* since"):
            leases.hold(tmp_path / "two")


@pytest.mark.parametrize(("seconds", "lives"), [(STALE / 2, True), (2 * STALE, False)])
def test_on_another_machine_the_heart_tells(tmp_path: Path, seconds: float, lives: bool) -> None:
    with Leases() as first, Leases() as second:
        lease = first.hold(tmp_path)
        elsewhere(lease.path)
        age(lease.path, seconds)
        found = holder_of(tmp_path)
        assert found is not None
        assert living(dict([found]), Scheduler()) == ({lease.path} if lives else set())
        if lives:
            with pytest.raises(Busy, match="on far"):
                second.hold(tmp_path)
        else:
            second.hold(tmp_path)


@pytest.mark.parametrize("lives", [True, False])
def test_the_batch_system_is_believed_before_the_heart(tmp_path: Path, lives: bool) -> None:
    job = Job("cluster", "12_3", 0)
    with Leases(Told(own=job)) as first, Leases(Told(lives={job: lives})) as second:
        lease = first.hold(tmp_path)
        elsewhere(lease.path)
        age(lease.path, 2 * STALE if lives else 0)
        if lives:
            with pytest.raises(Busy, match=r"job 12_3 on far"):
                second.hold(tmp_path)
        else:
            second.hold(tmp_path)


def test_a_later_start_of_a_job_takes_over_and_the_earlier_one_may_not_write(tmp_path: Path) -> None:
    """Both processes live: the node of the first was lost, but not its process."""
    first, second = Job("cluster", "12_3", 0), Job("cluster", "12_3", 1)
    with Leases(Told(own=first)) as old, Leases(Told(own=second)) as new, Leases(Told(own=first)) as again:
        lease = old.hold(tmp_path)
        lease.check()
        later = new.hold(tmp_path)
        later.check()
        with pytest.raises(Superseded, match="taken over"):
            lease.check()
        with pytest.raises(Busy):
            again.hold(tmp_path)
        assert later.crashes == 0
    assert not list(tmp_path.iterdir())


def test_another_job_with_the_same_number_is_another_job(tmp_path: Path) -> None:
    with Leases(Told(own=Job("a", "12", 0))) as one, Leases(Told(own=Job("b", "12", 1))) as two:
        one.hold(tmp_path)
        with pytest.raises(Busy):
            two.hold(tmp_path)


def test_one_who_woke_up_late_finds_that_it_was_superseded(tmp_path: Path) -> None:
    """Even if the numbers have begun again since."""
    with Leases() as slept:
        lease = slept.hold(tmp_path)
        elsewhere(lease.path)
        age(lease.path, 2 * STALE)
        with Leases() as other:
            other.hold(tmp_path)
        with Leases() as third:
            held = third.hold(tmp_path)
            assert held.path == lease.path
            with pytest.raises(Superseded):
                lease.check()
            held.check()
    assert not list(tmp_path.iterdir())


def test_one_who_looked_long_ago_does_not_get_in_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw an empty folder, and its number is free, but there is a higher one by now."""
    link = os.link

    def slow_link(draft: Path, path: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", link)
            assert others.hold(tmp_path).path.name == "claim-1"
            (tmp_path / "claim-1").rename(tmp_path / "claim-3")
            link(draft, path)

    with Leases() as others, Leases() as late:
        monkeypatch.setattr(os, "link", slow_link)
        with pytest.raises(Busy, match="was just taken"):
            late.hold(tmp_path)
        assert (tmp_path / "claim-3").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["claim-3"]


def test_a_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "BEAT", 0.01)
    with Leases() as leases:
        lease = leases.hold(tmp_path)
        age(lease.path, 1000)
        deadline = time.monotonic() + 30
        while lease.path.stat().st_mtime < time.time() - 500 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.path.stat().st_mtime > time.time() - 500
        lease.path.unlink()
        while not lease.superseded and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.superseded


@pytest.mark.parametrize("content", ["", "{", '{"token": "1"}', "[]"])
def test_a_claim_that_a_power_failure_cut_short_counts_until_it_is_stale(tmp_path: Path, content: str) -> None:
    path = tmp_path / "claim-4"
    path.write_text(content)
    with Leases() as leases:
        with pytest.raises(Busy):
            leases.hold(tmp_path)
        age(path, 2 * STALE)
        assert leases.hold(tmp_path).path.name == "claim-5"


def die(folder: Path, mark: int) -> Lease:
    """Hold a folder and vanish."""
    vanished = Leases()
    lease = vanished.hold(folder, mark)
    vanished._stop.set()
    os.close(lease._descriptor)
    return lease


def test_deaths_are_counted_until_there_is_progress(tmp_path: Path) -> None:
    assert [die(tmp_path, mark).crashes for mark in (0, 0, 0, 5, 5)] == [0, 1, 2, 1, 2]
    with Leases() as leases:
        assert leases.hold(tmp_path, 5).crashes == 3
    with Leases() as leases:
        assert leases.hold(tmp_path, 5).crashes == 0


def test_a_cell_that_kills_its_processes_fails_and_can_be_tried_again(tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, "ce")
    for _ in range(MAX_CRASHES):
        die(run.folder, 0)
    (outcome,) = train_cells([run.cell], lambda: run.data, lambda _: None, run.options)
    assert isinstance(outcome, Exception)
    assert f"{MAX_CRASHES} processes in a row died" in str(outcome)
    assert json.loads((run.folder / FAILURE).read_text())["reason"] == "killed"
    (outcome,) = train_cells([run.cell], lambda: run.data, lambda _: None, run.options)
    assert isinstance(outcome, dict)
    assert not (run.folder / FAILURE).exists()


def test_a_superseded_run_writes_nothing_and_the_later_one_ends_like_a_quiet_one(
    tiny_npz: Path, tmp_path: Path
) -> None:
    """The first start of a job goes on while the second trains the cell from its state to its end."""
    quiet = make_run(tiny_npz, tmp_path / "quiet", "kd")
    (expected,) = train_cells([quiet.cell], lambda: quiet.data, lambda _: quiet.source, quiet.options)
    run = make_run(tiny_npz, tmp_path / "runs", "kd")
    folder, records = run.folder, []
    early = dataclasses.replace(run.options, scheduler=Told(own=Job("c", "7", 0)), save_every=0.0)
    late = dataclasses.replace(run.options, scheduler=Told(own=Job("c", "7", 1)), save_every=0.0)

    def take_over(progress: Any) -> None:
        if progress.fraction >= 0.5 and not records:
            assert (folder / STATE).exists()
            records.extend(train_cells([run.cell], lambda: run.data, lambda _: run.source, late))
            left.update({path.name: path.read_bytes() for path in folder.iterdir()})

    left: dict[str, bytes] = {}
    (outcome,) = train_cells([run.cell], lambda: run.data, lambda _: run.source, early, lambda _: take_over)
    assert isinstance(outcome, Superseded)
    (record,) = records
    assert isinstance(expected, dict)
    assert record["weights"] == expected["weights"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == left
    assert RECORD in left
    assert STATE not in left
