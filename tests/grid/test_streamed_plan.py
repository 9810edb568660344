"""What a plan says of memory, states and images that stream, against what cells really keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from cells import CPU, Typed, make_source
from digit_files import NAME, RULES, register, write_digits

from kdbench.data.batches import Batches
from kdbench.data.decoding.loader import shared_memory
from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.data.views import CropIds
from kdbench.engine import loading
from kdbench.engine.run import Run
from kdbench.engine.run_state import state_of
from kdbench.grid import cache_needs
from kdbench.grid import timing as grid_bench
from kdbench.grid.cell_needs import cell_needs
from kdbench.grid.estimate import GridEstimate
from kdbench.grid.grid import Grid
from kdbench.grid.overview import read_overview
from kdbench.grid.shapes import NetShape, data_shape
from kdbench.grid.states import Status
from kdbench.grid.variants import variants_of
from kdbench.method import PLAIN, ViewPlan
from kdbench.teachers.pairs import PoolPairs
from kdbench.utils.scheduler import Scheduler

ROTATIONS = ViewPlan((0, 1, 2, 3))
RULES_ADAMW = RULES.replace("momentum = 0.9\nnesterov = false", 'name = "AdamW"\nbetas = [0.9, 0.999]')


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


def write_grid(path: Path, protocol: str, pair: str, methods: list[str], seeds: int = 1) -> Path:
    path.write_text(tomli_w.dumps({"protocol": protocol, "pairs": [pair], "methods": methods, "seeds": seeds}))
    return path


def opened_files(file: Path, digits: Path, runs: Path) -> tuple[Grid, list[Status]]:
    grid = Grid.open(file, runs=runs, data=f"folder:{digits}", device="cpu", scheduler=Scheduler())
    overview = read_overview(grid, Scheduler())
    return grid, [*overview.statuses, *overview.teachers]


def tensor_bytes(value: Any) -> int:
    """The bytes of all tensors in nested containers, but for the scalars in which an optimiser counts its steps."""
    if isinstance(value, torch.Tensor):
        return value.nbytes if value.ndim else 0
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(tensor_bytes, children))


@pytest.mark.parametrize("rules", [RULES, RULES_ADAMW], ids=["SGD", "AdamW"])
def test_a_cell_keeps_what_the_shapes_say(
    rules: str, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that a run saves after a step, and the tensors on its device; banks and heads are the method's."""
    register(monkeypatch, rules)
    methods = ["ce", "kd", "crd", "simkd", "sp", "reviewkd"]
    file = write_grid(tmp_path / "g.toml", NAME, "resnet14>resnet8", methods)
    grid, statuses = opened_files(file, digits, tmp_path)
    session = grid.session
    variants = variants_of(statuses[: len(grid.cells)])
    needs, reasons = cell_needs(grid, variants, data_shape(session))
    assert not reasons
    source = make_source("resnet14", session.protocol, session.dataset)
    batches = Batches(session.device_data, session.protocol, 1)
    by_method = {}
    for variant in variants:
        run = Run(variant.cell, batches, source if variant.cell.teacher else None, session.options)
        for parameter in run.parameters:
            parameter.grad = torch.zeros_like(parameter)
        run.optimizer.step()
        kept = run.optimizer.state_dict()["state"]
        need = by_method[variant.cell.method] = needs[variant]
        state = state_of(run)
        scalars = sum(v.nbytes for part in ("student", "method") for v in state[part].values() if not v.ndim)
        assert need.state == tensor_bytes([state["student"], state["method"], kept]) + scalars
        teacher = [*source.teacher.net.parameters(), *source.teacher.net.buffers()] if variant.cell.teacher else []
        tensors = [*run.module.parameters(), *run.module.buffers(), *teacher, *run.parameters]  # the last: gradients
        assert need.device == sum(tensor.nbytes for tensor in tensors) + tensor_bytes(kept)
    assert by_method["kd"].method == by_method["sp"].method == 0
    banks = 2 * 40 * 128 * 4
    assert banks < by_method["crd"].method < 2 * banks + 2**20
    assert by_method["simkd"].method > 0


def test_a_cache_of_a_pool_has_every_crop_and_no_list() -> None:
    """Rotations of all crops, if a method rotates; the features alone where they are narrower than the logits."""
    crops = CropIds(50)
    for plans, ids in (([PLAIN, PLAIN], 50), ([PLAIN, ROTATIONS], 4 * 50), ([], 0)):
        pool = PoolPairs.of(crops, 10, plans)
        assert pool is not None
        assert len(pool) == 10 * ids
    narrow = NetShape(bytes=0, widths={"logits": 1000, "penultimate": 512}, row={"logits": 4000, "penultimate": 2048})
    wide = NetShape(bytes=0, widths={"logits": 1000, "penultimate": 2048}, row={"logits": 4000, "penultimate": 8192})
    for parts, of_narrow, of_wide in (
        ({"logits"}, 2048, 4000),
        ({"penultimate"}, 2048, 8192),
        ({"logits", "penultimate"}, 2048, 12192),
        (set(), 0, 0),
    ):
        assert cache_needs._row_bytes(parts, crops, narrow) == of_narrow  # type: ignore[arg-type]
        assert cache_needs._row_bytes(parts, crops, wide) == of_wide  # type: ignore[arg-type]


def test_what_imagenet_needs_is_said_without_an_image(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Banks of CRD, 1.3 GB; batches of 64 crops in shared memory, and with MLLD's strong views twice as many."""
    monkeypatch.chdir(tmp_path)
    methods, pair = ["kd", "crd", "pckd"], "torchvision:resnet18>torchvision:resnet18"
    write_grid(tmp_path / "new.toml", "imagenet-crd-v1", pair, methods, 2)
    code, out, err = typed("grid", "plan", "new.toml")
    assert (code, err) == (0, "")
    assert "teacher caches: none: no crop is seen twice without a pool of crops" in out
    network, banks = 11_689_512 * 4, 2 * 1_281_167 * 128 * 4
    embeddings = 2 * (512 * 128 + 128) * 4
    state = 2 * network + banks + 2 * embeddings
    assert f"memory: at least {(state + network + network + embeddings) / 1e9:.1f} GB of the device for a cell" in out
    assert f"(crd torchvision:resnet18>torchvision:resnet18, {banks / 1e9:.1f} GB of it what crd keeps)" in out
    assert f" and {2 * state / 1e9:.1f} GB for the states of a cell in progress (crd); " in out
    batch = 64 * 3 * 224 * 224
    assert f"host: {(2 * 8 + 2) * batch / 1e6:.1f} MB of /dev/shm with 8 processes that decode: 2 batches of " in out
    assert "for the list of" not in out
    pool = write_grid(tmp_path / "pool.toml", "imagenet-crd-pool50-v1", pair, [*methods, "mlld"], 2)
    code, out, err = typed("grid", "plan", str(pool))
    assert (code, err) == (0, "")
    views = 1_281_167 * 50
    assert (
        f"{4 * views:,}  {4 * views * 512 * 4 / 1e9:.1f} GB  nothing  {views * 512 * 4 / 1e9:.1f} GB without pckd"
        in out
    )
    assert f"2 batches of {2 * batch / 1e6:.1f} MB each, with the strong views of mlld; " in out


def test_a_step_takes_as_long_as_the_slower_of_device_and_loader(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is timed on noise; a tenth of a second for 16 images, or for strong views 1.6 s."""
    register(monkeypatch)
    datasets, plans = [], []

    def bench(protocol: Any, dataset: Any, *words: Any) -> Any:
        datasets.append(dataset)
        return Bench(protocol, dataset, *words)

    def seconds(dataset: Any, protocol: Any, device: Any, plan: ViewPlan, check: Any) -> float:
        plans.append(plan.num_strong)
        return 0.1 if plan.num_strong else 0.1 / 16

    Bench = grid_bench.Bench
    monkeypatch.setattr(grid_bench, "Bench", bench)
    monkeypatch.setattr(grid_bench, "loading_seconds", seconds)
    monkeypatch.setattr(grid_bench, "alternate", lambda *_: {"step": [1.0]})
    file = write_grid(tmp_path / "g.toml", NAME, "resnet8>resnet8", ["ce", "mlld"])
    grid, statuses = opened_files(file, digits, tmp_path / "runs")
    before = GridEstimate.of(grid, statuses)
    after = grid_bench.measure(grid, before, tmp_path)
    assert not any(isinstance(dataset, StreamedDataset) for dataset in datasets)
    assert {dataset.shape for dataset in datasets} == {grid.session.dataset.shape}
    assert plans == [0, 1]
    steps = 3 * 2  # of 40 images in batches of 16
    expected = {"ce": 1.0 * steps, "mlld": 1.6 * steps}
    assert {v.cell.method: seconds for v, seconds in after.speed.cells.items()} == pytest.approx(expected)
    assert [variant.cell.method for variant in after.speed.starved] == ["mlld"]
    assert after.speed.images_per_second == pytest.approx(160)
    again = grid_bench.measure(grid, before, tmp_path)
    assert again.speed == after.speed
    assert plans == [0, 1], "it is kept, as the steps are"


def test_a_plan_of_files_says_what_decoding_takes(
    typed: Typed, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid_bench, "loading_seconds", lambda *_: 1 / 1234.5)
    monkeypatch.setattr(grid_bench, "alternate", lambda *_: {"step": [1.0]})
    write_grid(tmp_path / "g.toml", NAME, "resnet8>resnet8", ["ce"])
    code, out, err = typed("grid", "plan", "g.toml", "--data", f"folder:{digits}", "--measure", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "time: 1,234 images a second are decoded on this machine; 0 of 1 variant wait for them" in out
    assert " for the list of 60 images\n" in out


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_is_timed_once_what_it_made_ahead_is_used_up(
    workers: int, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves with each group of 8, over several epochs."""
    register(monkeypatch)
    write_grid(tmp_path / "g.toml", NAME, "resnet8>resnet8", ["ce"])
    session = opened_files(tmp_path / "g.toml", digits, tmp_path / "runs")[0].session
    dataset = session.dataset
    assert isinstance(dataset, StreamedDataset)
    dataset.num_workers = workers
    done, parts = 0, list[float]()
    look_up = loading.Batches.views.fget  # type: ignore[attr-defined]

    def counted(batches: Batches) -> Any:
        nonlocal done
        done += 1
        return look_up(batches)

    monkeypatch.setattr(loading.Batches, "views", property(counted))
    monkeypatch.setattr(loading.time, "perf_counter", lambda: float(done))
    seconds = loading.loading_seconds(dataset, session.protocol, CPU, PLAIN, parts.append)
    # A second a group; an epoch has four groups of 8 and two of 4.
    assert 1 / 8 < seconds < 1 / 4
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0, 1)
    assert done == 16 + 2 * workers + 1


def test_shared_memory_is_what_the_loader_checks() -> None:
    assert shared_memory(0, 100) == 0
    assert shared_memory(7, 100) == (2 * 7 + 2) * 100
