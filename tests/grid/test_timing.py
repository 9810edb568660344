"""The time that a grid still needs."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import CPU, Typed
from estimated_grids import opened, write_grid

from kdbench.cli import grid_needs, grid_timing
from kdbench.engine.bench import Bench
from kdbench.errors import UserError
from kdbench.experiment.folder import RECORD
from kdbench.grid import estimate
from kdbench.grid import timing as grid_bench
from kdbench.grid.estimate import GridEstimate
from kdbench.grid.states import State
from kdbench.grid.variants import variants_of


def test_the_time_is_that_of_finished_cells(half_done: tuple[Path, Path], tiny_npz: Path) -> None:
    grid, statuses = opened(half_done[0], tiny_npz, half_done[1])
    records = [json.loads((s.folder / RECORD).read_bytes()) for s in statuses if s.state == State.DONE]
    total = sum(r["cost"]["train_seconds"] + r["cost"]["evaluate_seconds"] for r in records)
    found = GridEstimate.of(grid, statuses)
    assert found.seconds == pytest.approx(total), "two seeds of each variant are done, and two are left"
    assert not found.unknown
    (name,) = {record["environment"]["device"] for record in records}
    assert found.speed.device == estimate.this_device(CPU) == f"{name} with 1 thread"
    told = " ".join(grid_needs.time_lines(replace(found, speed=replace(found.speed, parallel=3))))
    assert re.match(r"time: about \d+:\d\d with one worker \(.* with 1 thread\); at best \d+:\d\d with --jobs 3", told)
    assert "at best" not in " ".join(grid_needs.time_lines(replace(found, speed=replace(found.speed, parallel=1))))
    assert "building the teacher caches is not included" in told


def test_devices_are_not_mixed(half_done: tuple[Path, Path], tiny_npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 1 of each variant was made by a GPU, and one variant's seed 2 too: the GPU has most records."""

    def read(folder: Path, cell: Any) -> Any:
        record = json.loads((folder / RECORD).read_bytes())
        fast = cell.seed == 1 or cell.method == "reviewkd"
        made = {"device": "GPU", "device_type": "cuda"} if fast else {}
        record["cost"] |= {"train_seconds": 5.0 if fast else 500.0, "evaluate_seconds": 1.0}
        record["environment"] |= made
        return record

    monkeypatch.setattr(estimate, "read_record", read)
    grid, statuses = opened(half_done[0], tiny_npz, half_done[1])
    found = GridEstimate.of(grid, statuses)
    assert (found.speed.device, found.speed.elsewhere) == ("GPU", 4)
    assert set(found.speed.cells.values()) == {6.0}
    assert found.seconds == 10 * 6.0
    assert "4 records of other devices left out" in " ".join(grid_needs.time_lines(found))
    here = GridEstimate.of(grid, statuses, device=estimate.this_device(CPU))
    assert [variant.cell.method for variant in here.unknown] == ["reviewkd"]
    assert set(here.speed.cells.values()) == {501.0}
    told = grid_needs.time_lines(here)
    assert re.match(r"time: unknown for 1 of 5 variants \(cells .* seed\), none of which was run on \S", told[0])
    assert "add --measure to time a few steps of each here" in told[0]
    assert told[1].startswith("time: the other 4 variants: about 1:06:48 with one worker (")


def test_few_records_of_a_variant_are_read(
    half_done: tuple[Path, Path], tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, statuses = opened(half_done[0], tiny_npz, half_done[1])
    record = json.loads(next(s.folder / RECORD for s in statuses if s.state == State.DONE).read_bytes())
    read: list[Any] = []
    monkeypatch.setattr(estimate, "read_record", lambda folder, cell: read.append(cell) or record)
    variant = variants_of(statuses)[0]
    many = replace(variant, done=variant.done * 1000)
    estimate.speed([many], grid.session.runs)
    assert len(read) == 3


def test_what_was_never_run_is_measured(half_done: tuple[Path, Path], tiny_npz: Path, tmp_path: Path) -> None:
    """A second pair in the grid whose teacher must be trained, and more seeds of the first."""
    pairs = ["resnet14>resnet8", "resnet20>resnet8"]
    file = write_grid(half_done[0].with_name("two.toml"), pairs, seeds=3)
    grid, statuses = opened(file, tiny_npz, half_done[1])
    before = GridEstimate.of(grid, statuses, device=estimate.this_device(CPU))
    assert [(variant.cell.method, variant.cell.student) for variant in before.unknown] == [
        *(("kd", "resnet8"), ("kd", "resnet8"), ("pckd", "resnet8"), ("reviewkd", "resnet8"), ("ce", "resnet20")),
    ]
    shown: list[tuple[str, int, int]] = []
    after = grid_bench.measure(grid, before, tmp_path, 1, lambda *what: shown.append(what))
    assert not after.unknown
    assert after.speed.measured == frozenset(before.unknown)
    assert all(after.speed.cells[variant] == seconds for variant, seconds in before.speed.cells.items())
    assert after.speed.views is not None
    assert after.speed.views.keys() == {"resnet14", "resnet20"}
    assert all(0 < seconds < 1 for seconds in after.speed.views.values())
    assert after.seconds > before.seconds
    assert [what for what, _, _ in shown] == [
        *("kd resnet20>resnet8", "kd resnet20>resnet8", "pckd resnet20>resnet8", "reviewkd resnet20>resnet8"),
        *("ce resnet20", "cache of resnet20", "cache of resnet14"),
    ]
    assert [parts for _, *parts in shown] == [[number, 7] for number in range(7)]
    told = " ".join(grid_needs.time_lines(after))
    assert "5 of 10 variants were timed on a few training steps" in told
    assert "not included" not in told


def test_a_measured_cell_takes_its_steps(tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[str] = []

    def alternate(works: dict[str, Any], rounds: int, *_: Any) -> dict[str, list[float]]:
        (run,) = works["step"]._runs
        sources.append(f"{run.cell.method} {run.source.kind if run.source else None}")
        return {"step": [9.0, 2.0, 1.0]}

    def forward_seconds(bench: Bench, *_: Any) -> float:
        sources.append(f"build {bench.teacher}")
        return 0.5

    monkeypatch.setattr(grid_bench, "alternate", alternate)
    monkeypatch.setattr(grid_bench, "forward_seconds", forward_seconds)
    lines = {"seeds": 2, "epochs": 3, "methods": ["kd", "reviewkd"]}
    file = write_grid(tmp_path / "one.toml", ["resnet14>resnet8", "resnet14>resnet20"], **lines)
    grid, statuses = opened(file, tiny_npz, tmp_path / "runs")
    before = GridEstimate.of(grid, statuses)
    found = grid_bench.measure(grid, before, tmp_path)
    first = ["kd cache", "kd cache", "reviewkd live", "ce None", "build resnet14"]
    assert sources == [*first, "kd cache", "kd cache", "reviewkd live"]
    (need,) = found.caches
    steps = -(-42 // grid.session.protocol.batch_size) * 3
    assert set(found.speed.cells.values()) == {2.0 * steps}
    # For two pairs three variants with two seeds, and the teacher.
    assert found.seconds == pytest.approx(13 * 2.0 * steps + 0.5 * need.missing)
    sources.clear()
    assert grid_bench.measure(grid, before, tmp_path).speed == found.speed
    assert not sources, "all of it was kept"
    grid_bench.measure(grid, replace(before, caches=(replace(need, used=False),)), tmp_path)
    assert set(sources) == {"kd live"}, "from a cache it would take another time"


def test_what_was_timed_before_a_signal_is_kept(
    typed: Typed, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The progress is told where there is no terminal, too; a damaged file of times is no error."""
    times: list[float] = []

    def alternate(*_: Any) -> dict[str, list[float]]:
        times.append(1.0)
        if len(times) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"step": [1.0]}

    monkeypatch.setattr(grid_bench, "alternate", alternate)
    monkeypatch.setattr(grid_bench, "forward_seconds", lambda *_: 0.5)
    monkeypatch.setattr(grid_timing, "_TELL_SECONDS", 0.0)
    words = ["grid", "plan", str(write_grid(tmp_path / "one.toml")), "--data", f"npz:{tiny_npz}", "--measure"]
    code, out, err = typed(*words)
    assert code == 128 + signal.SIGTERM
    assert re.findall(r"^timing (.*): (\d of 7) done", out, flags=re.MULTILINE) == [
        ("kd resnet14>resnet8", "0 of 7"),
        ("kd resnet14>resnet8", "1 of 7"),
    ]
    assert err == "kdbench: 2 of 7 are timed and kept: type the same command to resume\n"
    code, out, _ = typed(*words)
    assert code == 0
    assert "4 of 5 done, about 0:" in out
    assert len(times) == 6
    assert typed(*words)[0] == 0
    assert len(times) == 6
    (kept,) = Path("runs").glob("*/grids/one/measured.json")
    kept.write_text("{")
    assert typed(*words)[0] == 0
    assert len(times) == 12


def test_a_cache_to_build_is_timed_although_every_variant_was_run(
    half_done: tuple[Path, Path], tiny_npz: Path, tmp_path: Path
) -> None:
    grid, _ = opened(half_done[0], tiny_npz, half_done[1])
    (teacher,) = grid.teachers.values()
    grid, statuses = opened(
        write_grid(tmp_path / "at.toml", [f"{teacher.ref.spec}>resnet8"], 3), tiny_npz, half_done[1]
    )
    found = grid_bench.measure(grid, GridEstimate.of(grid, statuses), tmp_path, 1)
    assert not found.speed.measured
    assert found.speed.views
    assert found.speed.views.keys() == {"resnet14"}


def test_what_cannot_be_timed_is_named_and_the_rest_is_timed(
    typed: Typed, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def live_step(_: Bench, cell: Any) -> Any:
        raise UserError("the maps differ") if cell.method == "reviewkd" else RuntimeError("out of\nmemory")

    monkeypatch.setattr(Bench, "live_step", live_step)
    monkeypatch.setattr(grid_bench, "alternate", lambda *_: {"step": [1.0]})
    monkeypatch.setattr(grid_bench, "forward_seconds", lambda *_: 0.5)
    words = ["grid", "plan", str(write_grid(tmp_path / "one.toml")), "--data", f"npz:{tiny_npz}", "--measure"]
    code, out, err = typed(*words)
    assert (code, err) == (0, "")
    assert "time: 3 of 6 variants could not be timed, and are not included\n" in out
    assert re.search(r"^time: the other 3 variants: about \d+:\d\d", out, flags=re.MULTILINE), out
    assert "add --measure" not in out
    assert re.findall(r"^not timed: (.*)$", out, flags=re.MULTILINE) == [
        "reviewkd resnet14>resnet8: the maps differ",
        "ce resnet8: RuntimeError: out of memory",
        "ce resnet14: RuntimeError: out of memory",
    ]


def test_a_signal_stops_between_two_steps(
    typed: Typed, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def step() -> None:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Bench, "cached_step", lambda *_: step)
    words = ["grid", "plan", str(write_grid(tmp_path / "one.toml")), "--data", f"npz:{tiny_npz}", "--measure"]
    code, _, err = typed(*words)
    assert code == 128 + signal.SIGINT
    assert err.startswith("kdbench: 0 of ")
    assert len(steps) == 2
