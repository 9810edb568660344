"""What a grid still needs: caches, disk and time, against what its cells really leave."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estimated_grids import opened, write_grid
from rich.console import Console
from typer.testing import CliRunner

from kdbench.cli import grid_needs, grid_view
from kdbench.cli.grid import app
from kdbench.data.datasets import SHAPES
from kdbench.errors import UserError
from kdbench.grid import cache_needs, estimate, shapes
from kdbench.grid.estimate import GridEstimate
from kdbench.grid.states import State
from kdbench.grid.variants import variants_of
from kdbench.models import build_backbone
from kdbench.teachers.cache_list import list_caches
from kdbench.teachers.demand import Wanted, visited
from kdbench.utils.text import size


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
    assert "more than half of the disk that the caches above it leave free" in printed(grid_needs.caches(found.caches))
    monkeypatch.undo()
    grid, statuses = opened(write_grid(tmp_path / "once.toml", seeds=1, epochs=1, methods=["kd"]), tiny_npz, tmp_path)
    kd = [status for status in statuses if status.cell.settings.values().get("temperature") == 2.0]
    (need,) = GridEstimate.of(grid, kd).caches
    assert round(need.views) == need.forwards == 42
    assert not need.used
    assert "saves nothing: no view" in printed(grid_needs.caches([need]))


def test_the_method_that_makes_a_cache_large_is_named(half_done: tuple[Path, Path], tiny_npz: Path) -> None:
    """Of the four plans of a view, and of the features beside the logits, nothing is left without pckd."""
    grid, statuses = opened(half_done[0], tiny_npz, half_done[1])
    (need,) = GridEstimate.of(grid, statuses).caches
    others = [status for status in statuses if status.cell.method != "pckd"]
    (without,) = GridEstimate.of(grid, others).caches
    assert need.largest_reader == "pckd"
    assert need.bytes_without == pytest.approx(without.bytes)
    assert without.bytes < need.bytes / 3
    assert without.largest_reader == ""
    assert f"{size(without.bytes)} without pckd" in printed(grid_needs.caches([need]))
    assert "without" not in printed(grid_needs.caches([replace(need, bytes_without=0.9 * need.bytes)]))


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
        num_images, offsets = SHAPES["cifar100"].num_images, 9 * 9 * 2
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
        return grid_needs.disk_lines(grid, replace(found, disk=replace(found.disk, free=int(free))))

    (line,) = told(found.disk.needed + 1)
    kept = r"\([\d.]+ kB of it predictions, left out with --no-predictions\)"
    assert re.match(
        rf"disk: about [\d.]+ MB for 10 cells {kept}, [\d.]+ kB for teacher caches and [\d.]+ MB for the", line
    )
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
    assert re.search(r"^resnet14 +\d+ +[\d.]+ kB +nothing +[\d.]+ kB without pckd *$", out, flags=re.MULTILINE)
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


def test_the_plan_says_which_methods_do_not_take_the_images(plan: Any, tmp_path: Path, tiny_npz: Path) -> None:
    """They are not square, and two methods turn them; in the words of their cells."""
    arrays = {name: values[:, :, :12] if values.ndim == 4 else values for name, values in np.load(tiny_npz).items()}
    np.savez(tmp_path / "oblong.npz", **arrays)
    file = write_grid(tmp_path / "oblong.toml", methods=["ce", "kd", "pckd", "sskd"])
    out = plan(file, tmp_path / "fresh", "--data", f"npz:{tmp_path / 'oblong.npz'}")
    assert re.findall(r"^unsupported: (\w+) \S+: (images of 16 x 12 pixels cannot be turned)", out, re.MULTILINE) == [
        ("pckd", "images of 16 x 12 pixels cannot be turned"),
        ("sskd", "images of 16 x 12 pixels cannot be turned"),
    ]
    assert not re.search("without pckd", out), "it needs no cache"


@pytest.mark.parametrize("width", [20, 40, 200])
def test_every_count_is_seen_on_any_terminal(width: int, tiny_npz: Path, tmp_path: Path) -> None:
    pairs = ["resnet14>resnet8", "resnet20>resnet8"]
    grid, statuses = opened(write_grid(tmp_path / "g.toml", pairs, seeds=1), tiny_npz, tmp_path / "runs")
    cells = statuses[: len(grid.cells)]
    cells[0] = replace(cells[0], state=State.DONE)
    console = Console(width=width)
    with console.capture() as captured:
        console.print(grid_view.counts(grid, cells, width))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    text = re.sub(r"\s+", " ", " ".join(lines))
    assert "…" not in text
    if width == 20:
        assert "resnet14 > resnet8: done 1, to do 4 resnet20 > resnet8: done 1, to do 4" in text
    else:
        assert "resnet14 > resnet8 1" in text


def printed(what: Any) -> str:
    console = Console(width=200, file=None, record=True, quiet=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()
