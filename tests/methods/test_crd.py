"""CRD: its draws, its losses and its banks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_outputs import built, outputs, rng, seeds
from stub_nets import stub_batch, stub_net, stub_setup
from torch import Tensor
from torch.nn import functional

from kdbench.experiment.settings import resolve_settings
from kdbench.methods import (
    crd,
)

pytestmark = pytest.mark.once


def test_crd_draws_no_own_class_no_repeats_and_only_from_the_generator() -> None:
    labels = torch.randint(7, (300,), generator=rng(0))
    largest = int(labels.bincount().max())
    targets = labels[:50]
    for num in (1, 20, 300 - largest):
        drawn = crd.draw_negatives(targets, labels, num, largest, rng(1))
        assert drawn.shape == (50, num)
        assert (labels[drawn] != targets[:, None]).all()
        assert all(len(set(row)) == num for row in drawn.tolist())
        torch.manual_seed(num)
        assert torch.equal(drawn, crd.draw_negatives(targets, labels, num, largest, rng(1)))
        assert num == 300 - largest or not torch.equal(drawn, crd.draw_negatives(targets, labels, num, largest, rng(2)))


@given(seed=seeds, sizes=st.lists(st.integers(1, 12), min_size=2, max_size=6), data=st.data())
@settings(max_examples=60, deadline=None)
def test_crd_draws_from_classes_of_any_size(seed: int, sizes: list[int], data: st.DataObject) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=rng(seed))]
    num = data.draw(st.integers(1, len(labels) - max(sizes)))
    drawn = crd.draw_negatives(labels, labels, num, max(sizes), rng(seed))
    assert drawn.shape == (len(labels), num)
    assert (labels[drawn] != labels[:, None]).all()
    assert all(len(set(row)) == num for row in drawn.tolist())


def test_crd_draws_uniformly_and_rows_independently() -> None:
    """Counts of single images and of pairs within a row and across two rows, at 4.5 standard deviations."""
    labels = torch.arange(30) % 3
    targets = torch.tensor([0, 1])
    draws, num = 20_000, 5
    generator = rng(0)
    single = torch.zeros(2, 30)
    within, across = torch.zeros(30, 30), torch.zeros(30, 30)
    for _ in range(draws // 100):
        drawn = crd.draw_negatives(targets.repeat(100), labels, num, 10, generator).view(100, 2, num)
        chosen = functional.one_hot(drawn, 30).sum(dim=2).float()
        single += chosen.sum(dim=0)
        within += chosen[:, 0].T @ chosen[:, 0]
        across += chosen[:, 0].T @ chosen[:, 1]
    draws = draws // 100 * 100

    def close(counts: Tensor, probability: float) -> bool:
        spread = 4.5 * math.sqrt(draws * probability * (1 - probability))
        return bool(((counts - draws * probability).abs() < spread).all())

    others = [torch.nonzero(labels != target).flatten() for target in (0, 1)]
    assert close(single[0, others[0]], num / 20)
    assert close(single[1, others[1]], num / 20)
    pairs = within[others[0]][:, others[0]]
    assert close(pairs[~torch.eye(20, dtype=torch.bool)], num * (num - 1) / (20 * 19))
    # Rows share one random order, so places are shared a little more often than by independent draws.
    expected = draws * (num / 20) ** 2
    assert (across[others[0]][:, others[1]] / expected - 1).abs().max() < 0.25


def test_crd_draws_in_memory_that_does_not_grow_with_the_training_set() -> None:
    """No tensor of rows times training images: the largest allocation is a few times the drawn ones."""
    rows, num, size = 64, 128, 200_000
    labels = torch.arange(size) % 1000
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        drawn = crd.draw_negatives(labels[:rows], labels, num, 200, rng(0))
    assert drawn.shape == (rows, num)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 8 * size + 1024 < rows * size


def test_crd_scores_equal_a_literal_gather() -> None:
    generator = rng(3)
    embedding, bank = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (4, 50))
    columns = torch.randint(50, (4, 9), generator=generator)
    scores = crd.contrast_scores(embedding, bank, columns, 0.07)
    for row in range(4):
        for column in range(9):
            expected = float(sum(a * b for a, b in zip(embedding[row], bank[columns[row, column]], strict=True))) / 0.07
            assert scores[row, column].item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_crd_loss_equals_its_formula() -> None:
    ratios = torch.rand(5, 1 + 8, generator=rng(0), dtype=torch.float64) * 3 + 1e-3
    noise, epsilon = 8 / 100, 1e-7
    expected = 0.0
    for positive, *negatives in ratios.tolist():
        expected -= math.log(positive / (positive + noise + epsilon))
        expected -= sum(math.log(noise / (negative + noise + epsilon)) for negative in negatives)
    assert crd.nce_loss(ratios.log(), 100, epsilon).item() == pytest.approx(expected / 5, rel=1e-12)


def test_crds_slope_is_the_losss_derivative() -> None:
    log_ratios = (4 * torch.randn(5, 9, generator=rng(0), dtype=torch.float64)).requires_grad_()
    crd.nce_loss(log_ratios, 100, 1e-7).backward()
    torch.testing.assert_close(crd.nce_slope(log_ratios.detach(), 100, 1e-7), log_ratios.grad, rtol=1e-12, atol=1e-14)


def test_crd_takes_a_large_bank_some_images_at_a_time() -> None:
    """No more products at once than asked for, and the same numbers."""
    bank = torch.randn(1000, 6, generator=rng(1), dtype=torch.float64)
    embedding = torch.randn(32, 6, generator=rng(0), dtype=torch.float64).requires_grad_()
    columns = torch.stack([torch.randperm(1000, generator=rng(i))[:9] for i in range(32)])
    whole = crd.contrast_scores(embedding, bank, columns, 0.07)
    (expected,) = torch.autograd.grad((whole * torch.arange(9)).sum(), embedding)
    weights = torch.arange(9, dtype=torch.float64).expand(32, 9) / 0.07
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        parts = crd.contrast_scores(embedding.detach(), bank, columns, 0.07, max_products=3000)
        gradient = crd.weighted_rows(weights, bank, columns, max_products=3000)
    torch.testing.assert_close(parts, whole.detach())
    torch.testing.assert_close(gradient, expected)
    assert 3000 * 8 <= max(event.self_cpu_memory_usage for event in profile.events()) < 4000 * 8
    torch.testing.assert_close(crd.contrast_scores(embedding, bank, columns, 0.07, max_products=1), whole)


def test_crd_freezes_its_normalisers_and_moves_only_the_batchs_rows() -> None:
    module = built(crd.CRD, num_negatives=5)
    assert isinstance(module, crd.CRD)
    before = module.student_bank.clone()
    index = torch.tensor([7, 3, 20])
    batch = stub_batch(index % 10, index=index)
    _, rows = module.distill(outputs("student", 3), outputs("teacher", 3, seed=1), batch)
    assert module.student_log_z.isinf(), "a loss changes nothing"
    assert torch.equal(module.student_bank, before)
    module.remember(rows)
    first = module.student_log_z.clone(), module.teacher_log_z.clone()
    assert all(value.isfinite() for value in first)
    changed = (module.student_bank != before).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [3, 7, 20]
    torch.testing.assert_close(module.student_bank[index].norm(dim=1), torch.ones(3))
    module.remember(module.distill(outputs("student", 3, seed=5), outputs("teacher", 3, seed=6), batch)[1])
    assert (module.student_log_z, module.teacher_log_z) == first
    assert not module.student_bank.requires_grad
    assert set(module.state_dict()) >= {"student_bank", "teacher_bank", "student_log_z", "teacher_log_z"}
    assert "labels" not in module.state_dict()


def test_crd_lowers_the_number_of_negatives_to_what_there_is() -> None:
    assert built(crd.CRD).num_negatives == 36  # 40 images, 10 classes
    net = stub_net(num_classes=3)
    with pytest.raises(ValueError, match="only one class"):
        crd.CRD(crd.CRD.Config(), stub_setup(net, net, torch.zeros(9, dtype=torch.long)))


def test_a_bound_on_memory_is_no_part_of_a_cells_identity() -> None:
    chosen = {"max_products": 1000, "temperature": 0.1}
    small = resolve_settings("crd", dataset="digits", teacher="resnet20", student="resnet8", chosen=chosen)
    assert small.config.max_products == 1000
    assert "max_products" not in small.values()
    assert small.chosen == {"temperature": 0.1}


def test_half_products_change_a_loss_and_its_gradient_by_rounding_alone() -> None:
    """Banks stay in float32. Off, the setting is no part of a cell's identity."""
    found = []
    for half in (False, True):
        torch.manual_seed(0)
        module = built(crd.CRD, num_negatives=20, half_products=half)
        assert isinstance(module, crd.CRD)
        index = torch.tensor([7, 3, 20])
        student = outputs("student", 3)
        student.penultimate.requires_grad_()
        terms, _ = module.distill(student, outputs("teacher", 3, seed=1), stub_batch(index % 10, index=index))
        (gradient,) = torch.autograd.grad(terms["crd"], student.penultimate)
        found.append((terms["crd"], gradient))
        assert module.student_bank.dtype == torch.float32
    torch.testing.assert_close(found[0], found[1], rtol=0.03, atol=0.01 * found[0][1].abs().max().item())
    assert not torch.equal(found[0][1], found[1][1])
    usual = resolve_settings("crd", dataset="digits", teacher="resnet20", student="resnet8", chosen={})
    assert "half_products" not in usual.values()
