"""What must hold for every method on every kind of network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import METHODS, PAIRS, make_run, steps

from kdbench.data.views import order, views
from kdbench.method import PLAIN
from kdbench.networks import weights_hash
from kdbench.registry import method_names
from kdbench.run import Run

every_method = pytest.mark.parametrize("method", METHODS)
every_pair = pytest.mark.parametrize("pair", PAIRS)


def weights(run: Run) -> str:
    """Hash of everything that is trained or remembered."""
    return weights_hash(
        {f"student.{k}": v for k, v in run.student.state_dict().items()}
        | {f"method.{k}": v for k, v in run.method.state_dict().items()}
    )


def test_the_table_holds_every_method() -> None:
    assert sorted(METHODS) == method_names()


@every_method
@every_pair
def test_losses_are_named_finite_and_reach_every_parameter(
    method: str, pair: str, tiny_npz: Path, tmp_path: Path
) -> None:
    run = make_run(tiny_npz, tmp_path, method, pair)
    before = weights_hash(run.source.teacher.net.state_dict()) if run.source else ""
    steps(run, 1)
    assert run.terms
    assert all(run.terms)
    run.drain()
    assert all(map(math.isfinite, run.sums.values()))
    for module in (run.student, run.method):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, f"{name} gets no gradient"
                assert parameter.grad.isfinite().all(), name
            else:
                assert parameter.grad is None, f"{name} is frozen and gets a gradient"
    steps(run, 2)  # the last batch holds 10 images
    run.drain()
    if run.source:
        assert not run.source.teacher.net.training
        assert weights_hash(run.source.teacher.net.state_dict()) == before
        assert all(p.grad is None for p in run.source.teacher.net.parameters())


@every_method
@every_pair
def test_a_state_goes_round_and_two_runs_of_a_seed_are_equal(
    method: str, pair: str, tiny_npz: Path, tmp_path: Path
) -> None:
    whole = make_run(tiny_npz, tmp_path, method, pair)
    steps(whole, 3)
    first = make_run(tiny_npz, tmp_path, method, pair)
    steps(first, 1)
    first.drain()
    first.save()
    second = make_run(tiny_npz, tmp_path, method, pair)
    second.resume()
    assert (second.epoch, second.step, second.sums) == (first.epoch, first.step, first.sums)
    assert weights(second) == weights(first)
    steps(second, 2)
    assert weights(second) == weights(whole)


@every_method
def test_another_seed_is_another_run(method: str, tiny_npz: Path, tmp_path: Path) -> None:
    runs = [make_run(tiny_npz, tmp_path, method, seed=seed) for seed in (1, 2)]
    for run in runs:
        steps(run, 1)
    assert weights(runs[0]) != weights(runs[1])


@every_method
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains(method: str, precision: str, tiny_npz: Path, tmp_path: Path) -> None:
    run = make_run(tiny_npz, tmp_path, method, precision=precision)
    steps(run, 2)
    run.drain()
    assert all(p.dtype == torch.float32 for p in run.student.parameters())


@every_method
def test_all_methods_see_the_same_student_and_plain_views(method: str, tiny_npz: Path, tmp_path: Path) -> None:
    """Paired by construction: initial weights, order and plain views depend on the seed alone.

    A method may put the student into a larger network, where its weights have longer names.
    """
    alone, run = make_run(tiny_npz, tmp_path, "ce"), make_run(tiny_npz, tmp_path, method)
    inside = {name.rpartition("body.")[2]: value for name, value in run.student.backbone.state_dict().items()}
    drawn = alone.student.backbone.state_dict()
    assert weights_hash({name: inside[name] for name in drawn}) == weights_hash(drawn)
    seen: list[list[tuple[list[int], torch.Tensor]]] = []
    for one in (alone, run):
        seen.append([])

        def note(images: torch.Tensor, index: torch.Tensor, _: Any) -> torch.Tensor:
            seen[-1].append((index.tolist(), images[: len(index)].clone()))
            return torch.zeros(0)

        one.update = note  # type: ignore[method-assign]
        steps(one, 3)
    for (index, images), (other_index, other_images) in zip(*seen, strict=True):
        assert index == other_index
        assert torch.equal(images, other_images)
    permutation = order(1, 1, 42).tolist()
    assert [i for index, _ in seen[1] for i in index] == permutation
    plain = views(1, 1, 42, run.data.images.augmentation, PLAIN)[0, permutation[:16]]
    assert torch.equal(seen[1][0][1], run.data.images.augment(torch.tensor(permutation[:16]), plain))
