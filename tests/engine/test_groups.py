"""Groups of images: a batch that goes through the networks in parts is one batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cells import METHODS, make_run
from torch import Tensor

from kdbench.data.groups import Layout
from kdbench.engine.checks.small import PAIRS, steps
from kdbench.engine.run import Run
from kdbench.engine.run_state import restore, state_of
from kdbench.experiment.rule_groups import ScheduleRules

BATCH_NORMS = ("running_mean", "running_var", "num_batches_tracked")


def schedule(batch_size: int, group_size: int | None) -> ScheduleRules:
    return ScheduleRules(epochs=1, batch_size=batch_size, group_size=group_size, milestones=())


@pytest.mark.parametrize(
    ("num_images", "num_groups", "sizes"), [(256, 4, [64] * 4), (10, 4, [3, 3, 2, 2]), (9, 1, [9]), (8, 4, [2] * 4)]
)
def test_groups_differ_by_one_image_at_most(num_images: int, num_groups: int, sizes: list[int]) -> None:
    bounds = Layout(num_images, schedule(256, 256 // num_groups)).bounds(0)
    assert [last - first for first, last in bounds] == sizes
    assert [first for first, _ in bounds] == [sum(sizes[:number]) for number in range(num_groups)]


@pytest.mark.parametrize(
    ("num_images", "group_size", "num", "smallest"),
    [(40, 4, 3, 2), (39, 4, 2, 4), (42, 4, 3, 2), (33, None, 2, 16), (34, None, 3, 2), (10, None, 1, 10)],
)
def test_a_last_batch_has_two_images_a_group(num_images: int, group_size: int | None, num: int, smallest: int) -> None:
    layout = Layout(num_images, schedule(16, group_size))
    assert (layout.steps, layout.smallest) == (num, smallest)


def test_groups_are_the_batch_in_its_order(tiny_npz: Path, tmp_path: Path) -> None:
    whole = make_run(tiny_npz, tmp_path, "ce", batch_size=16)
    parts = make_run(tiny_npz, tmp_path, "ce", batch_size=16, group_size=4)
    for run in (whole, parts):
        run.batches.begin(1)
    for step in range(whole.batches.steps):
        (batch,), groups = whole.batches.groups(step), parts.batches.groups(step)
        assert torch.equal(torch.cat([group.index for group in groups]), batch.index)
        assert sum(group.share for group in groups) == pytest.approx(1, abs=1e-15)
        assert [group.number for group in groups] == [0, 1, 2, 3]
        assert [len(group.index) / len(batch.index) for group in groups] == [group.share for group in groups]


def gradients(run: Run) -> dict[str, Tensor]:
    named = [*run.student.named_parameters(), *run.method.named_parameters()]
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


@pytest.mark.usefixtures("float64")
def test_a_group_counts_by_its_share_of_the_images(
    tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without batch norms, the gradients of a mean over images do not depend on the groups."""
    monkeypatch.setitem(PAIRS, "vit>vit", ("timm:test_vit", "timm:test_vit"))
    sums = []
    for group_size in (None, 5, 2):
        run = make_run(tiny_npz, tmp_path, "kd", "vit>vit", batch_size=10, group_size=group_size)
        steps(run, 1)
        sums.append(gradients(run))
    for parts in sums[1:]:
        assert parts.keys() == sums[0].keys()
        for name, gradient in sums[0].items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_running_statistics_are_those_of_the_first_group(tiny_npz: Path, tmp_path: Path) -> None:
    grouped = make_run(tiny_npz, tmp_path, "ce", batch_size=16, group_size=4)
    first = make_run(tiny_npz, tmp_path, "ce", batch_size=4)
    for run in (grouped, first):
        steps(run, 1)
    expected = {name: value for name, value in first.student.state_dict().items() if name.endswith(BATCH_NORMS)}
    assert len(expected) > 3
    for name, value in grouped.student.state_dict().items():
        if name in expected:
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_in_groups(method: str, tiny_npz: Path, tmp_path: Path) -> None:
    """A run in groups resumes to the bit, whatever the method remembers."""
    runs = [make_run(tiny_npz, tmp_path / str(n), method, batch_size=16, group_size=4) for n in range(2)]
    steps(runs[0], 2)
    steps(runs[1], 1)
    resumed = make_run(tiny_npz, tmp_path / "2", method, batch_size=16, group_size=4)
    restore(resumed, state_of(runs[1]))
    assert resumed.step == 1
    steps(resumed, 1)
    for ours, theirs in ((runs[0].student, resumed.student), (runs[0].method, resumed.method)):
        states = ours.state_dict(), theirs.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
