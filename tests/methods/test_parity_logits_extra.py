"""Stored values and properties of CTKD and MLLD."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from parity_files import load, names
from stub_nets import stub_batch, stub_net, stub_setup
from test_parity_losses import sides, total
from torch import Tensor
from torch.nn import functional

from kdbench.functional import cross_entropy
from kdbench.methods import ctkd, mlld
from kdbench.methods.kd import kl_per_image, standardized
from kdbench.net import Outputs

pytestmark = pytest.mark.once

# --- CTKD ---


@pytest.mark.parametrize("name", sorted(set(names("ctkd")) - {"schedule"}))
def test_ctkd(name: str) -> None:
    case = load("ctkd", name)
    student, teacher, targets = sides(case)
    assert (case.value("hp.decay_max"), case.value("hp.decay_min")) == (0, -1)
    config = ctkd.CTKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kl_weight"),
        min_temperature=case.value("hp.t_start"),
        temperature_range=case.value("hp.t_end"),
        warmup=case.value("hp.decay_loops") / 240,
    )
    assert config == ctkd.CTKD.Config()
    net = stub_net(num_classes=student.shape[1])
    method = ctkd.CTKD(config, stub_setup(net, net)).double()
    method.load_state_dict({"logit": case.tensor("w.global_T")[0]})
    batch = stub_batch(targets, epoch=int(case.value("hp.epoch")))
    case.check("out.lambda", ctkd.reversal(batch.progress, config.warmup))
    case.check("out.temperature", method.temperature())
    case.check("out.ce", cross_entropy(student, targets).mean())
    case.check("out.kl", kl_per_image(student, teacher, method.temperature()).mean())
    loss = total(method.loss(Outputs("student", logits=student), Outputs("teacher", logits=teacher), batch))
    case.check("out.total", loss)
    loss.backward()
    assert method.logit.grad is not None
    case.check("grad.w.global_T", method.logit.grad)
    case.check("grad.logits_s", student.grad)


def test_ctkds_schedule() -> None:
    case = load("ctkd", "schedule")
    factors = [ctkd.reversal(epoch / 240, case.value("hp.decay_loops") / 240) for epoch in case.arrays["in.epoch"]]
    case.check("out.lambda", torch.tensor(factors, dtype=torch.float64))
    assert ctkd.reversal(1 / 240, 0.0) == -1


def test_ctkds_temperature_starts_high_and_climbs_the_loss() -> None:
    """A step against its gradient raises the divergence that the student's step lowers."""
    net = stub_net()
    method = ctkd.CTKD(ctkd.CTKD.Config(ce_weight=0.0), stub_setup(net, net)).double()
    assert method.temperature().item() == pytest.approx(1 + 20 / (1 + math.exp(-1)))
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()

    def divergence() -> Tensor:
        batch = stub_batch(torch.arange(6), epoch=200)
        return method.loss(Outputs("student", logits=student), Outputs("teacher", logits=teacher), batch)["kd"]

    before = divergence()
    before.backward()
    assert method.logit.grad is not None
    assert student.grad is not None
    with torch.no_grad():
        method.logit -= 1e-3 * method.logit.grad
        assert divergence() > before
        method.logit += 1e-3 * method.logit.grad
        student -= 1e-3 * student.grad
        assert divergence() < before


# --- MLLD ---


def mlld_of(config: mlld.MLLD.Config, num_classes: int) -> mlld.MLLD:
    net = stub_net(num_classes=num_classes)
    return mlld.MLLD(config, stub_setup(net, net))


@pytest.mark.parametrize("name", names("mlld"))
def test_mlld(name: str) -> None:
    """The whole, and from the pure functions each temperature's share of it, the unused terms too."""
    case = load("mlld", name)
    views = [
        [case.tensor(f"in.logits_{side}_{view}", grad=side == "s") for side in "st"] for view in ("weak", "strong")
    ]
    (weak, teacher_weak), (strong, teacher_strong) = views
    targets, standardize = case.tensor("in.target"), bool(case.value("hp.logit_standardization"))
    config = mlld.MLLD.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kd_weight"),
        temperature=case.value("hp.T"),
        standardize=standardize,
    )
    assert standardize or config == mlld.MLLD.Config()
    method = mlld_of(config, weak.shape[1])
    terms = method.loss(
        Outputs("student", logits=torch.cat([weak, strong])),
        Outputs("teacher", logits=torch.cat([teacher_weak, teacher_strong])),
        stub_batch(targets),
    )
    case.check("out.loss_ce", terms["ce"])
    case.check("out.loss_kd_weak", terms["plain"])
    case.check("out.loss_kd_strong", terms["strong"])
    case.check("out.loss_kd", terms["plain"] + terms["strong"])
    case.check("out.loss_cc_weak", terms["class"])
    case.check("out.loss_bc_weak", terms["batch"])
    loss = total(terms)
    case.check("out.total", loss)
    loss.backward()
    case.check("grad.logits_s_weak", weak.grad)
    case.check("grad.logits_s_strong", strong.grad)

    temperatures = (config.temperature, *mlld.OTHER_TEMPERATURES)
    case.check("hp.temperatures", torch.tensor(temperatures, dtype=torch.float64))
    selecting = mlld_of(mlld.MLLD.Config(masks="select"), weak.shape[1])
    images, classes = selecting.weights(teacher_weak)
    case.check("out.mask", images)
    case.check("out.class_mask", classes)
    probabilities = functional.softmax(teacher_weak, dim=1)
    case.check("out.confidence", probabilities.amax(dim=1))
    case.check("out.conf_thresh", mlld.median(probabilities.amax(dim=1)))
    case.check("out.class_confidence", probabilities.sum(dim=0))
    case.check("out.class_confidence_thresh", mlld.median(probabilities.sum(dim=0)))
    unused = [mlld.class_errors(*views[number < mlld.NUM_STRONG], t).sum() for number, t in enumerate(temperatures)]
    case.check("out.unused_loss_cc_strong", config.kd_weight * torch.stack(unused).sum())
    unused = [mlld.image_errors(strong, teacher_strong, t).sum() for t in temperatures]
    case.check("out.unused_loss_bc_strong", config.kd_weight * images.mean() * torch.stack(unused).sum())


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
