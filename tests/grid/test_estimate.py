"""What a grid still needs: caches, disk and time, against what its cells really leave."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import CPU, make_teacher, tiny_protocol
from rich.console import Console
from typer.testing import CliRunner

from kdbench.cli import grid_view
from kdbench.cli.grid import app
from kdbench.data.batches import DeviceData
from kdbench.data.datasets import SHAPES, load_dataset
from kdbench.data.views import Augmentation
from kdbench.engine.bench import Bench
from kdbench.errors import UserError
from kdbench.experiment.folder import RECORD
from kdbench.grid import cache_needs, estimate, shapes
from kdbench.grid import timing as grid_bench
from kdbench.grid.cache_needs import expected_pairs
from kdbench.grid.estimate import GridEstimate
from kdbench.grid.grid import Grid
from kdbench.grid.overview import read_overview
from kdbench.grid.shapes import DataShape, net_shape
from kdbench.grid.states import State, Status
from kdbench.grid.variants import variants_of
from kdbench.method import PLAIN, ViewPlan
from kdbench.models import NETWORKS, build_backbone
from kdbench.teachers.cache_list import list_caches
from kdbench.teachers.demand import Visits, Wanted, visited
from kdbench.teachers.outputs import LiveTeacher
from kdbench.utils.scheduler import Scheduler

TURNS = ViewPlan((0, 1, 2, 3))
SEEN: dict[str, list[set[ViewPlan]]] = {
    "one seed, plain": [{PLAIN}],
    "three seeds, plain": [{PLAIN}, {PLAIN}, {PLAIN}],
    "turned": [{TURNS}, {TURNS}],
    "turned and plain share the plain view": [{PLAIN, TURNS}, {PLAIN}],
    "two crops of one turn share their flip": [{ViewPlan((0, 0, 2))}, {ViewPlan((0, 2, 2)), TURNS}],
}


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN)
@pytest.mark.parametrize(("pad", "flip"), [(0, False), (0, True), (1, False), (1, True), (2, True)])
def test_the_expected_pairs_are_those_that_are_visited_on_average(
    seen: list[set[ViewPlan]], pad: int, flip: bool
) -> None:
    """Images draw on their own: the mean of N counts is within five standard errors of the expectation."""
    num_images, epochs, augmentation = 4000, 2, Augmentation(pad=pad, flip=flip)
    visits = Visits(num_images, augmentation)
    for seed, plans in enumerate(seen):
        for plan in plans:
            visits.add(seed, range(1, epochs + 1), plan)
    counts = np.bincount(augmentation.split(torch.from_numpy(visits.pairs()))[0].numpy(), minlength=num_images)
    expected = expected_pairs(num_images, augmentation, Counter(map(frozenset, epochs * seen))) / num_images
    assert abs(counts.mean() - expected) <= 5 * counts.std() / num_images**0.5 + 1e-9
    assert counts.var() < expected, "what chance explains is judged by this bound"


@pytest.mark.parametrize("network", [*NETWORKS, "timm:test_resnet", "timm:test_vit", "timm:test_efficientnet"])
def test_a_network_without_values_has_the_shape_of_one_with_values(network: str) -> None:
    data = DataShape(10, (32, 32), 7)
    backbone = build_backbone(network, 7, (32, 32))
    found = net_shape(network, data)
    assert found.bytes == sum(values.nbytes for values in backbone.state_dict().values())
    assert found.parameters == sum(parameter.numel() for parameter in backbone.parameters())
    assert found.row == {"logits": 4 * 7, "penultimate": 4 * backbone.head().in_features}


@pytest.mark.parametrize("network", ["vgg8", "timm:test_resnet", "timm:test_vit"])
def test_a_network_is_built_without_values(network: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(network, 7, (32, 32))
    assert all(values.is_meta for values in backbone.state_dict().values())


@pytest.mark.parametrize("network", ["resnet8", "timm:test_vit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_of_a_cache_takes_the_bytes_that_the_teacher_says(network: str, precision: Any, tiny_npz: Path) -> None:
    dataset = load_dataset(f"npz:{tiny_npz}", Path())
    protocol = tiny_protocol(dataset, precision=precision)
    live = LiveTeacher(make_teacher(network, protocol, dataset), precision, CPU)
    said = live.forward(DeviceData(dataset, protocol, CPU), torch.arange(3))
    shape = net_shape(network, DataShape(42, (16, 16), 3), precision)
    assert shape.row == {part: values[0].nbytes for part, values in said.items()}


def write_grid(path: Path, pairs: Sequence[str] = ("resnet14>resnet8",), seeds: int = 2, **lines: Any) -> Path:
    """A grid of 5 variants a pair: student only, three that read a cache, one with rotations; one that reads maps."""
    lines = {"protocol": "digits-demo-v1", "pairs": list(pairs), "seeds": seeds, "epochs": 2} | lines
    lines = {"methods": ["ce", "kd", "pckd", "reviewkd"]} | lines
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
    path.write_text(f"{text}[method.kd]\ntemperature = [2.0, 4.0]\n")
    return path


def opened(file: Path, npz: Path | None, runs: Path) -> tuple[Grid, list[Status]]:
    """A grid, and the states of its cells and of those that train its teachers."""
    scheduler = Scheduler()
    grid = Grid.open(file, runs=runs, data=f"npz:{npz}" if npz else None, device="cpu", scheduler=scheduler)
    overview = read_overview(grid, scheduler)
    return grid, [*overview.statuses, *overview.teachers]


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory, tiny_npz: Path) -> tuple[Path, Path]:
    """A grid's file with four seeds, and a folder of runs in which two of them are done, with a cache."""
    folder = tmp_path_factory.mktemp("grid")
    file = write_grid(folder / "small.toml")
    grid, _ = opened(file, tiny_npz, folder / "runs")
    grid.session.train_teacher("resnet14")
    outcomes = grid.session.run_all(grid.cells, cache="on")
    assert all(isinstance(outcome, dict) for outcome in outcomes)
    return write_grid(file, seeds=4), folder / "runs"


def test_cells_of_one_variant_differ_only_in_their_seed(half_done: tuple[Path, Path], tiny_npz: Path) -> None:
    grid, statuses = opened(half_done[0], tiny_npz, half_done[1])
    variants = variants_of([*statuses, statuses[0]])
    assert [(variant.cell.method, len(variant.left), len(variant.done)) for variant in variants] == [
        *(("ce", 2, 2), ("kd", 2, 2), ("kd", 2, 2), ("pckd", 2, 2), ("reviewkd", 2, 2)),
    ]
    sorted_cells = [cell for variant in variants for cell in (*variant.left, *variant.done)]
    assert {cell.id for cell in sorted_cells} == {cell.id for cell in grid.cells}
    for variant in variants:
        assert {cell.seed for cell in variant.left} == {3, 4}
        assert len({cell.settings.config for cell in (*variant.left, *variant.done)}) == 1


def test_a_cache_lacks_what_new_seeds_visit(half_done: tuple[Path, Path], tiny_npz: Path) -> None:
    """Against the exact pairs: within five standard deviations, of at most the square root of the number."""
    grid, statuses = opened(half_done[0], tiny_npz, half_done[1])
    (need,) = GridEstimate.of(grid, statuses).caches
    (card,) = [teacher.card for teacher in grid.teachers.values()]
    assert card
    left = [Wanted.by(s.cell) for s in statuses if s.state != State.DONE and s.cell.teacher]
    pairs = visited([one for one in left if one.cacheable], grid.session.device_data)
    missing = grid.session.teachers.cache(card).missing(pairs, ("logits", "penultimate"))
    assert abs(need.views - len(pairs)) < 5 * len(pairs) ** 0.5
    exact = len(missing["logits"])
    assert len(pairs) > 1.02 * exact, "some are on disk"
    assert abs(need.missing - exact) < 5 * len(pairs) ** 0.5
    assert need.missing < need.views
    assert need.row_bytes == 8 + 4 * 3 + 4 * 64
    assert need.used


def test_nothing_is_missing_of_a_whole_cache(
    half_done: tuple[Path, Path], tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, statuses = opened(write_grid(half_done[0].with_name("again.toml")), tiny_npz, half_done[1])
    assert not GridEstimate.of(grid, statuses).caches
    undone = [replace(status, state=State.LOST) if status.cell.seed == 1 else status for status in statuses]
    (need,) = GridEstimate.of(grid, undone).caches
    assert need.missing == 0
    assert need.used
    assert need.views > 42 * 4
    (info,) = list_caches(half_done[1])
    assert info.identity
    for changed in (
        replace(info, identity=replace(info.identity, mean=(0.5, 0.5, 0.5))),
        replace(info, identity=replace(info.identity, weights="0")),
        replace(info, parts=("logits",)),
        replace(info, identity=None),
    ):
        monkeypatch.setattr(estimate, "list_caches", lambda _, changed=changed: [changed])
        (need,) = GridEstimate.of(grid, undone).caches
        assert need.missing == need.views, "of other outputs"


def test_caches_that_the_live_teacher_is_asked_instead_of(
    half_done: tuple[Path, Path], tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As --cache auto decides: over half of the free disk, or no view twice."""
    grid, statuses = opened(half_done[0], tiny_npz, half_done[1])
    (need,) = GridEstimate.of(grid, statuses).caches
    monkeypatch.setattr(cache_needs, "free_space", lambda _: round(2.01 * need.missing_bytes))
    assert GridEstimate.of(grid, statuses).caches == (need,)
    monkeypatch.setattr(cache_needs, "free_space", lambda _: round(1.99 * need.missing_bytes))
    found = GridEstimate.of(grid, statuses)
    assert found.caches == (replace(need, used=False),)
    assert found.disk.caches == 0
    assert not found.to_build
    assert "too large: more than half of the free disk" in printed(grid_view.caches(found.caches))
    monkeypatch.undo()
    grid, statuses = opened(write_grid(tmp_path / "once.toml", seeds=1, epochs=1, methods=["kd"]), tiny_npz, tmp_path)
    kd = [status for status in statuses if status.cell.settings.values().get("temperature") == 2.0]
    (need,) = GridEstimate.of(grid, kd).caches
    assert round(need.views) == need.forwards == 42
    assert not need.used
    assert "saves nothing: no view" in printed(grid_view.caches([need]))


def test_the_disk_is_about_what_cells_leave(half_done: tuple[Path, Path], tiny_npz: Path, tmp_path: Path) -> None:
    grid, statuses = opened(half_done[0], tiny_npz, half_done[1])
    done = [status.folder for status in statuses if status.state == State.DONE]
    left = sum(file.stat().st_size for folder in done for file in folder.iterdir())
    found = GridEstimate.of(grid, statuses).disk
    assert found.num_cells == len(done) == 10
    assert 0.98 < found.cells / left < 1.02
    assert found.needed == found.cells + found.caches + found.state
    fresh, statuses = opened(half_done[0], tiny_npz, tmp_path / "runs")
    # The cell that trains the teacher, and the copy that the teacher has.
    teacher = build_backbone("resnet14", 3, (16, 16)).state_dict().values()
    more = GridEstimate.of(fresh, statuses).disk
    assert more.num_cells == 21
    assert more.cells - 2 * found.cells == pytest.approx(2 * sum(values.nbytes for values in teacher), rel=0.01)
    assert more.caches > found.caches


def test_the_time_is_that_of_finished_cells(half_done: tuple[Path, Path], tiny_npz: Path) -> None:
    grid, statuses = opened(half_done[0], tiny_npz, half_done[1])
    records = [json.loads((s.folder / RECORD).read_bytes()) for s in statuses if s.state == State.DONE]
    total = sum(r["cost"]["train_seconds"] + r["cost"]["evaluate_seconds"] for r in records)
    found = GridEstimate.of(grid, statuses)
    assert found.seconds == pytest.approx(total), "two seeds of each variant are done, and two are left"
    assert not found.unknown
    (name,) = {record["environment"]["device"] for record in records}
    assert found.speed.device == estimate.this_device(CPU) == f"{name} with 1 thread"
    told = " ".join(grid_view.time_lines(found))
    assert re.match(r"time: about \d+:\d\d with one worker \(.* with 1 thread\); at best \d+:\d\d with --jobs 4", told)
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
    assert "4 records of other devices left out" in " ".join(grid_view.time_lines(found))
    here = GridEstimate.of(grid, statuses, device=estimate.this_device(CPU))
    assert [variant.cell.method for variant in here.unknown] == ["reviewkd"]
    assert set(here.speed.cells.values()) == {501.0}
    told = grid_view.time_lines(here)
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
    shown: list[tuple[str, float]] = []
    after = grid_bench.measure(grid, before, tmp_path, 1, lambda what, part: shown.append((what, part)))
    assert not after.unknown
    assert after.speed.measured == frozenset(before.unknown)
    assert all(after.speed.cells[variant] == seconds for variant, seconds in before.speed.cells.items())
    assert after.speed.views is not None
    assert after.speed.views.keys() == {"resnet14", "resnet20"}
    assert all(0 < seconds < 1 for seconds in after.speed.views.values())
    assert after.seconds > before.seconds
    assert [what for what, _ in shown] == [
        *("kd resnet20>resnet8", "kd resnet20>resnet8", "pckd resnet20>resnet8", "reviewkd resnet20>resnet8"),
        *("ce resnet20", "cache of resnet20", "cache of resnet14", ""),
    ]
    assert [part for _, part in shown] == pytest.approx([number / 7 for number in range(8)])
    told = " ".join(grid_view.time_lines(after))
    assert "5 of 10 variants were timed on a few training steps" in told
    assert "not included" not in told


def test_a_measured_cell_takes_its_steps(tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[str] = []

    def alternate(works: dict[str, Any], rounds: int, device: torch.device) -> dict[str, list[float]]:
        (run,) = works["step"]._runs
        sources.append(f"{run.cell.method} {run.source.kind if run.source else None}")
        return {"step": [9.0, 2.0, 1.0]}

    def forward_seconds(bench: Bench) -> float:
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
    grid_bench.measure(grid, replace(before, caches=(replace(need, used=False),)), tmp_path)
    assert set(sources) == {"kd live", "reviewkd live", "ce None"}


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


def test_named_data_are_not_loaded_and_networks_are_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(name: str, num_classes: int, image_size: tuple[int, int]) -> Any:
        built.append(name)
        assert (num_classes, image_size) == (100, (32, 32))
        return build_backbone(name, num_classes, image_size)

    monkeypatch.setattr(shapes, "build_backbone", build)
    lines = {"protocol": "cifar100-crd-v1", "methods": ["ce", "kd"], "data": str(tmp_path)}
    pairs = ["resnet20>resnet8", "wrn_40_2>resnet8", "resnet20>resnet20"]
    for precision in ("fp32", "bf16"):
        file = write_grid(tmp_path / "cifar.toml", pairs, precision=precision, **lines)
        grid, statuses = opened(file, None, tmp_path / "runs")
        found = GridEstimate.of(grid, statuses)
        assert sorted(built) == ["resnet20", "resnet8", "wrn_40_2"]
        num_images, offsets = SHAPES["cifar100"][0], 9 * 9 * 2
        seen = num_images * offsets * (1 - (1 - 1 / offsets) ** 4)
        assert [need.views for need in found.caches] == pytest.approx([seen, seen])
        assert {need.row_bytes for need in found.caches} == {8 + (4 if precision == "fp32" else 2) * 100}
        built.clear()


def test_a_network_that_is_not_there_is_named_with_its_pair(tiny_npz: Path, tmp_path: Path) -> None:
    file = write_grid(tmp_path / "typo.toml", ["resnet20>resnet8", "resnet20>timm:test_vitt"])
    grid, statuses = opened(file, tiny_npz, tmp_path / "runs")
    with pytest.raises(UserError) as error:
        GridEstimate.of(grid, statuses)
    assert re.fullmatch(
        r".*typo.toml: pair resnet20>timm:test_vitt: timm \S+ has no network 'test_vitt'; did you mean timm:.*",
        str(error.value),
    )


def test_what_does_not_fit_is_said_with_a_way_out(half_done: tuple[Path, Path], tiny_npz: Path) -> None:
    grid, statuses = opened(half_done[0], tiny_npz, half_done[1])
    found = GridEstimate.of(grid, statuses)

    def told(free: float) -> list[str]:
        return grid_view.disk_lines(grid, replace(found, disk=replace(found.disk, free=int(free))))

    (line,) = told(found.disk.needed + 1)
    assert re.match(r"disk: about [\d.]+ MB for 10 cells, [\d.]+ kB for teacher caches and [\d.]+ MB for the", line)
    assert line.endswith(f" free in {grid.session.runs}")
    _, line = told(found.disk.needed - 1)
    assert "do not fit: name a folder on another disk with --runs DIR, or do without caches with --cache off" in line
    _, line = told(1)
    assert line.endswith("do not fit: name a folder on another disk with --runs DIR")


@pytest.fixture
def plan(tmp_path: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Type ``kdbench grid plan``; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def typed(file: Path, runs: Path, *words: str) -> str:
        words = ("plan", str(file), "--runs", str(runs), "--data", f"npz:{tiny_npz}", "--device", "cpu", *words)
        result = CliRunner().invoke(app, words, catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    return typed


def test_the_plan_on_the_screen(plan: Any, half_done: tuple[Path, Path], tmp_path: Path) -> None:
    out = plan(*half_done)
    assert re.search(r"resnet14@[0-9a-f]{8} +[\d.]+ % +trained here, seed 0, 2 epochs", out)
    assert re.search(r"teacher cache +views +size +on disk *\nresnet14@[0-9a-f]{8} +\d+ +[\d.]+ kB +[\d.]+ kB", out)
    assert len(re.findall(r"^(?:time|disk): ", out, flags=re.MULTILINE)) == 3
    out = plan(half_done[0], tmp_path / "fresh")
    assert re.search(r"^resnet14 +will be trained *$", out, flags=re.MULTILINE)
    assert re.search(r"^resnet14 +\d+ +[\d.]+ kB +nothing *$", out, flags=re.MULTILINE)
    assert (
        "time: unknown for 6 of 6 variants (cells that differ only in their seed), none of which was run: add --m"
        in out
    )
    out = plan(half_done[0], tmp_path / "fresh", "--measure")
    assert "unknown" not in out
    assert "6 of 6 variants were timed on a few training steps" in out
    file = write_grid(tmp_path / "done.toml")
    out = plan(file, half_done[1])
    assert "time: nothing is left to run" in out


def test_the_plan_says_which_pairs_a_method_does_not_support(plan: Any, tmp_path: Path) -> None:
    """In the words in which its cells would fail, before anything is trained; the others are not named."""
    methods = ["ce", "kd", "fsp", "ofd", "simkd"]
    pairs = ["resnet14>resnet8", "resnet8x4>resnet8", "timm:test_resnet>resnet8"]
    out = plan(write_grid(tmp_path / "refused.toml", pairs, methods=methods), tmp_path / "fresh")
    assert re.findall(r"^unsupported: (\w+ \S+): (\w+ \w+)", out, flags=re.MULTILINE) == [
        ("fsp resnet8x4>resnet8", "FSP compares"),
        ("fsp timm:test_resnet>resnet8", "FSP compares"),
        ("ofd timm:test_resnet>resnet8", "OFD reads"),
    ]


def printed(what: Any) -> str:
    console = Console(width=200, file=None, record=True, quiet=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()
