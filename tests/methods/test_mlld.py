"""MLLD: its selection, its views and its median."""

from __future__ import annotations

import itertools

import pytest
import torch
from stub_nets import stub_batch, stub_net, stub_setup
from torch.nn import functional

from kdbench.functional import cross_entropy
from kdbench.methods import mlld
from kdbench.methods.kd import kl_per_image, standardized
from kdbench.net import Outputs

pytestmark = pytest.mark.once


def mlld_of(config: mlld.MLLD.Config, num_classes: int) -> mlld.MLLD:
    net = stub_net(num_classes=num_classes)
    return mlld.MLLD(config, stub_setup(net, net))


@pytest.mark.parametrize("standardize", [False, True])
def test_mllds_selection_equals_a_literal_loop(standardize: bool) -> None:
    """Per image and pair: KL times the image's mask, errors of the matrices' rows times the row's mask."""
    generator = torch.Generator().manual_seed(0)
    rows, num_classes = 7, 5
    sides = [3 * torch.randn(2 * rows, num_classes, generator=generator, dtype=torch.float64) for _ in range(2)]
    targets = torch.arange(rows) % num_classes
    config = mlld.MLLD.Config(ce_weight=0.2, kd_weight=1.5, temperature=2.5, masks="select", standardize=standardize)
    terms = mlld_of(config, num_classes).loss(
        Outputs("student", logits=sides[0]), Outputs("teacher", logits=sides[1]), stub_batch(targets)
    )
    sure = functional.softmax(sides[1][:rows], dim=1)
    kept_images = [value <= sorted(sure.amax(dim=1).tolist())[rows // 2] for value in sure.amax(dim=1).tolist()]
    kept_classes = [value <= sorted(sure.sum(dim=0).tolist())[num_classes // 2] for value in sure.sum(dim=0).tolist()]
    assert (sum(kept_images), sum(kept_classes)) == (4, 3)
    expected = dict.fromkeys(("plain", "strong", "class", "batch"), 0.0)
    prepared = standardized if standardize else torch.clone
    for temperature in (2.5, 3, 5, 2, 6):
        kl = kl_per_image(prepared(sides[0]), prepared(sides[1]), temperature).tolist()
        expected["plain"] += sum(value for value, kept in zip(kl[:rows], kept_images, strict=True) if kept) / rows
        expected["strong"] += sum(kl[rows:]) / rows
        ours, theirs = (functional.softmax(side[:rows] / temperature, dim=1) for side in sides)
        for i, j in itertools.product(range(num_classes), repeat=2):
            error = (ours[:, i] * ours[:, j] - theirs[:, i] * theirs[:, j]).sum().item()
            expected["class"] += kept_classes[i] * error**2 / num_classes
        for i, j in itertools.product(range(rows), repeat=2):
            error = (ours[i] * ours[j] - theirs[i] * theirs[j]).sum().item()
            expected["batch"] += kept_images[i] * error**2 / rows
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(1.5 * value, rel=1e-12), name
    ce = cross_entropy(sides[0], targets.repeat(2)).view(2, rows).mean(dim=1).sum()
    torch.testing.assert_close(terms["ce"], 0.2 * ce)


def test_mlld_reads_the_plain_view_first_and_one_strong_view() -> None:
    plan = mlld.MLLD.views(mlld.MLLD.Config())
    assert (plan.quarter_turns, plan.num_strong, plan.num_views) == ((0,), 1, 2)


@pytest.mark.parametrize("num", [1, 2, 5, 8])
def test_the_median_keeps_half_and_ties(num: int) -> None:
    values = torch.rand(num, generator=torch.Generator().manual_seed(num))
    assert mlld.up_to_median(values).sum() == (num + 1) // 2
    assert mlld.up_to_median(torch.ones(num)).all()
