"""Properties of the losses, their settings and their recipes."""

from __future__ import annotations

import dataclasses
import importlib
import math
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import cells
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_nets import stub_batch, stub_net, stub_setup
from torch import Tensor
from torch.nn import functional

import kdbench.methods
from kdbench.config import field_docs
from kdbench.experiment.registry import load_method
from kdbench.experiment.settings import resolve_settings
from kdbench.functional import inner_products, warmup_factor
from kdbench.method import PLAIN, Method
from kdbench.methods import (
    ab,
    at,
    cc,
    crd,
    dkd,
    fitnet,
    ft,
    kd,
    nst,
    pckd,
    pkt,
    reviewkd,
    rkd,
    sp,
    vid,
)
from kdbench.methods._task import TaskMethod
from kdbench.net import Outputs

pytestmark = pytest.mark.once

DESCRIBED: list[type[Method]] = [load_method(name) for name in cells.METHODS]
# A loss of a network that the method makes of the student has tests of its own.
METHODS: list[type[Method]] = [method for method in DESCRIBED if method.wrap is Method.wrap]
UNORDERED = {load_method(name): settings for name, settings in cells.UNORDERED.items()}
CIFAR_PAIRS = {
    *("wrn_40_2>wrn_16_2", "wrn_40_2>wrn_40_1", "resnet56>resnet20", "resnet110>resnet20", "resnet110>resnet32"),
    *("resnet32x4>resnet8x4", "vgg13>vgg8", "vgg13>MobileNetV2", "ResNet50>MobileNetV2", "ResNet50>vgg8"),
    *("resnet32x4>ShuffleNetV1", "resnet32x4>ShuffleNetV2", "wrn_40_2>ShuffleNetV1"),
}
KL_LOSSES = {
    "kd": lambda student, teacher, targets, temperature: kd.kl_per_image(student, teacher, temperature).mean(),
    "tckd": dkd.tckd_loss,
    "nckd": dkd.nckd_loss,
}
STAGES = ((4, 8, 8), (6, 4, 4))
seeds = st.integers(0, 2**31 - 1)
temperatures = st.sampled_from([0.5, 1.0, 4.0, 20.0])


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_logits(seed: int, rows: int = 6, classes: int = 7, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = rng(seed)
    student, teacher = ((scale * torch.randn(rows, classes, generator=generator)).double() for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


# --- losses ---


@pytest.mark.parametrize("name", KL_LOSSES)
@given(seed=seeds, temperature=temperatures)
@settings(max_examples=20, deadline=None)
def test_kl_is_zero_with_zero_gradient_where_student_is_teacher(name: str, seed: int, temperature: float) -> None:
    student, _, targets = random_logits(seed)
    student.requires_grad_()
    loss = KL_LOSSES[name](student, student.detach().clone(), targets, temperature)
    (gradient,) = torch.autograd.grad(loss, student)
    assert abs(loss.item()) < 1e-12
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("name", KL_LOSSES)
@given(seed=seeds, temperature=temperatures, shift=st.floats(-30, 30))
@settings(max_examples=20, deadline=None)
def test_kl_ignores_a_shift_of_the_logits_and_the_order_of_images(
    name: str, seed: int, temperature: float, shift: float
) -> None:
    student, teacher, targets = random_logits(seed)
    loss = KL_LOSSES[name](student, teacher, targets, temperature)
    order = torch.randperm(len(targets), generator=rng(seed))
    assert loss >= 0
    torch.testing.assert_close(loss, KL_LOSSES[name](student + shift, teacher, targets, temperature))
    moved = KL_LOSSES[name](student[order], teacher[order], targets[order], temperature)
    torch.testing.assert_close(loss, moved)


@given(seed=seeds, temperature=temperatures)
@settings(max_examples=20, deadline=None)
def test_dkd_with_the_teachers_doubt_as_beta_is_kd(seed: int, temperature: float) -> None:
    """Equation 7 of the paper: KD = TCKD + (1 - p_teacher(target)) * NCKD, image by image."""
    student, teacher, targets = random_logits(seed, rows=1)
    doubt = 1 - functional.softmax(teacher / temperature, dim=1)[0, targets[0]]
    parts = (
        dkd.tckd_loss(student, teacher, targets, temperature),
        dkd.nckd_loss(student, teacher, targets, temperature),
    )
    torch.testing.assert_close(parts[0] + doubt * parts[1], kd.kl_per_image(student, teacher, temperature)[0])


def outputs(owner: str, rows: int, *, scale: float = 1.0, ties: bool = False, seed: int = 0) -> Outputs:
    generator = rng(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    logits = torch.zeros(rows, 10) if ties else scale * random(rows, 10).sign()
    stages = tuple(random(rows, *shape) for shape in STAGES)
    parts = (logits, random(rows, 8), *stages, random(10, 8), random(10))
    for part in parts:
        part.requires_grad_(owner == "student")
    return Outputs(
        owner, logits=logits, penultimate=parts[1], stages=stages, preact=stages, weight=parts[-2], bias=parts[-1]
    )


def built(method: type[Method], **config: Any) -> Method:
    torch.manual_seed(0)
    net = stub_net(shapes=STAGES)
    module = method(method.Config(**config), stub_setup(net, net))
    if method.pretraining(module.config) > 0:
        for part in module.pretrain(net).freeze:
            part.requires_grad_(False)
    return module


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("temperature", [None, 1.0])
def test_values_and_gradients_are_finite_at_the_extremes(
    method: type[Method], ties: bool, temperature: float | None
) -> None:
    """Float32 logits of +-50, right and wrong, and ties."""
    has_temperature = "temperature" in {field.name for field in dataclasses.fields(method.Config)}
    config = {"temperature": temperature} if temperature and has_temperature else {}
    module = built(method, **config)
    views = method.views(module.config).num_views
    student = outputs("student", 4 * views, scale=50, ties=ties)
    teacher = outputs("teacher", 4 * views, scale=50, ties=ties, seed=1)
    terms = module.loss(student, teacher, stub_batch(torch.arange(4), epoch=60))
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values()), terms
    torch.stack(list(terms.values())).sum().backward()
    gradients = [student.logits.grad] + [parameter.grad for parameter in module.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_outputs_give_float32_losses(method: type[Method]) -> None:
    module = built(method)
    rows = 4 * method.views(module.config).num_views
    halves = []
    for owner in ("student", "teacher"):
        full = outputs(owner, rows)
        maps = tuple(stage.bfloat16() for stage in full.stages)
        halves.append(
            Outputs(
                owner,
                logits=full.logits.bfloat16(),
                penultimate=full.penultimate.bfloat16(),
                stages=maps,
                preact=maps,
                weight=full.weight,
                bias=full.bias,
            )
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = module.loss(halves[0], halves[1], stub_batch(torch.arange(4), epoch=240))
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_inner_products_stay_in_float32_under_autocast() -> None:
    rows = torch.randn(5, 64, generator=rng(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        products, rounded = inner_products(rows, rows), rows @ rows.T
    assert torch.equal(products, rows @ rows.T)
    assert not torch.equal(products, rounded.float())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_batchs_order_does_not_matter(method: type[Method], weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    divergence = {"kd_weight": weight} if issubclass(method, TaskMethod) else {}
    module = built(method, **divergence, **UNORDERED.get(method, {})).double()
    views = method.views(module.config).num_views
    state = {key: value.clone() for key, value in module.state_dict().items()}
    targets = torch.tensor([3, 1, 3, 0, 2])
    order = torch.tensor([4, 2, 0, 1, 3])
    negatives = (targets[:, None] + torch.tensor([[1, 12, 23]])) % 40
    student, teacher = outputs("student", 5 * views), outputs("teacher", 5 * views, seed=1)
    totals = []
    for chosen in (torch.arange(5), order):
        rows = torch.cat([view * 5 + chosen for view in range(views)])
        monkeypatch.setattr(crd, "draw_negatives", lambda *_, chosen=chosen: negatives[chosen])
        module.load_state_dict(state)
        sides = [
            Outputs(
                "student",
                logits=side.logits[rows].double(),
                penultimate=side.penultimate[rows].double(),
                stages=tuple(stage[rows].double() for stage in side.stages),
                preact=tuple(stage[rows].double() for stage in side.preact),
                weight=side.weight.double(),
                bias=side.bias,
            )
            for side in (student, teacher)
        ]
        terms = module.loss(sides[0], sides[1], stub_batch(targets[chosen], index=chosen, epoch=30))
        totals.append(torch.stack([term.double() for term in terms.values()]))
    torch.testing.assert_close(totals[0], totals[1])


# --- CRD ---


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
    bank = torch.randn(1000, 6, generator=rng(1))
    embedding = torch.randn(32, 6, generator=rng(0)).requires_grad_()
    columns = torch.stack([torch.randperm(1000, generator=rng(i))[:9] for i in range(32)])
    whole = crd.contrast_scores(embedding, bank, columns, 0.07)
    (expected,) = torch.autograd.grad((whole * torch.arange(9.0)).sum(), embedding)
    weights = torch.arange(9.0).expand(32, 9) / 0.07
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        parts = crd.contrast_scores(embedding.detach(), bank, columns, 0.07, max_products=3000)
        gradient = crd.weighted_rows(weights, bank, columns, max_products=3000)
    torch.testing.assert_close(parts, whole.detach())
    torch.testing.assert_close(gradient, expected)
    assert 3000 * 4 <= max(event.self_cpu_memory_usage for event in profile.events()) < 4000 * 4
    torch.testing.assert_close(crd.contrast_scores(embedding, bank, columns, 0.07, max_products=1), whole)


def test_a_bound_on_memory_is_no_part_of_a_cells_identity() -> None:
    chosen = {"max_products": 1000, "temperature": 0.1}
    small = resolve_settings("crd", dataset="digits", teacher="resnet20", student="resnet8", chosen=chosen)
    assert small.config.max_products == 1000
    assert "max_products" not in small.values()
    assert small.chosen == {"temperature": 0.1}


def test_crd_freezes_its_normalisers_and_moves_only_the_batchs_rows() -> None:
    module = built(crd.CRD, num_negatives=5)
    assert isinstance(module, crd.CRD)
    before = module.student_bank.clone()
    index = torch.tensor([7, 3, 20])
    batch = stub_batch(index % 10, index=index)
    module.loss(outputs("student", 3), outputs("teacher", 3, seed=1), batch)
    first = module.student_log_z.clone(), module.teacher_log_z.clone()
    assert all(value.isfinite() for value in first)
    changed = (module.student_bank != before).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [3, 7, 20]
    torch.testing.assert_close(module.student_bank[index].norm(dim=1), torch.ones(3))
    module.loss(outputs("student", 3, seed=5), outputs("teacher", 3, seed=6), batch)
    assert (module.student_log_z, module.teacher_log_z) == first
    assert not module.student_bank.requires_grad
    assert set(module.state_dict()) >= {"student_bank", "teacher_bank", "student_log_z", "teacher_log_z"}
    assert "labels" not in module.state_dict()


def test_crd_lowers_the_number_of_negatives_to_what_there_is() -> None:
    assert built(crd.CRD).num_negatives == 36  # 40 images, 10 classes
    net = stub_net(num_classes=3)
    with pytest.raises(ValueError, match="only one class"):
        crd.CRD(crd.CRD.Config(), stub_setup(net, net, torch.zeros(9, dtype=torch.long)))


# --- ReviewKD ---


def test_reviewkd_matches_the_deepest_stages_and_refuses_what_cannot_work() -> None:
    shallow, deep = stub_net(shapes=STAGES[1:], preact=False), stub_net(width=12, shapes=STAGES)
    method = reviewkd.ReviewKD(reviewkd.ReviewKD.Config(), stub_setup(shallow, deep))
    assert [block.conv2[0].out_channels for block in method.abfs] == [12, 6]
    with pytest.raises(ValueError, match="student_preact"):
        reviewkd.ReviewKD(reviewkd.ReviewKD.Config(student_preact=True), stub_setup(shallow, deep))
    with pytest.raises(ValueError, match="at least 1 stage"):
        reviewkd.ReviewKD(reviewkd.ReviewKD.Config(), stub_setup(stub_net(), deep))
    assert built(reviewkd.ReviewKD).min_images == 2


# --- PCKD ---


def test_category_contrast_equals_a_literal_loop() -> None:
    generator = rng(0)
    labels = torch.tensor([0, 1, 0, 2, 1, 2, 0, 1])
    anchors = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    losses = pckd.category_contrast(anchors, labels, 4.0, 0.07)
    for i in range(8):
        similarities = [math.fsum((anchors[i] * anchors[j]).tolist()) / 4.0 for j in range(8)]
        top = max(similarities)
        denominator = sum(math.exp(similarities[j] - top) for j in range(8) if j != i) + 1e-7
        positives = [j for j in range(8) if j != i and labels[j] == labels[i]]
        mean = sum(similarities[j] - top - math.log(denominator) for j in positives) / len(positives)
        assert losses[i].item() == pytest.approx(-mean * 4.0 / 0.07, rel=1e-12)


@pytest.mark.parametrize("epochs", [240, 30])
def test_preview_schedule_has_the_published_values_at_the_same_progress(epochs: int) -> None:
    published = {1: 1.005, 25: 1.133, 50: 1.283, 80: 1.490, 100: 1.647, 120: 1.819, 139: 2.000}
    published |= {150: 2.113, 180: 2.454, 210: 2.850, 240: 3.310}
    for epoch, threshold in published.items():
        batch = stub_batch(torch.tensor([0]), epoch=epoch, epochs=240)
        assert pckd.preview_threshold(1.005, batch.progress) == pytest.approx(threshold, abs=5e-4)
        if epochs == 30 and epoch % 8 == 0:
            batch = stub_batch(torch.tensor([0]), epoch=epoch // 8, epochs=30)
            assert pckd.preview_threshold(1.005, batch.progress) == pytest.approx(threshold, abs=5e-4)


@given(losses=st.lists(st.floats(0, 20), min_size=1, max_size=12), epoch=st.integers(1, 240))
@settings(max_examples=60, deadline=None)
def test_preview_weights_are_at_most_one_and_favour_easy_images(losses: list[float], epoch: int) -> None:
    values = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    weights = pckd.preview_weights(values, pckd.preview_threshold(1.005, epoch / 240))
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (weights[values.argsort()].diff() <= 1e-12).all()
    assert weights[values.argmin()] == 1
    (gradient,) = torch.autograd.grad(weights.sum(), values)
    assert gradient.isfinite().all()


def test_pckd_switches() -> None:
    student, teacher = outputs("student", 8), outputs("teacher", 8, seed=1)
    batch = stub_batch(torch.tensor([0, 1]), epoch=20)
    terms = built(pckd.PCKD).loss(student, teacher, batch)
    assert list(terms) == ["ce", "kd", "contrast", "centre", "feature"]
    mean = built(pckd.PCKD, halves="mean").loss(student, teacher, batch)
    torch.testing.assert_close(2 * mean["contrast"], terms["contrast"])
    bare = built(pckd.PCKD, alpha=0.0, beta=0.0, delta=0.0, ff=0.0)
    assert list(bare.loss(student, teacher, batch)) == ["ce"]
    assert not list(bare.parameters())

    one = built(pckd.PCKD, views=1)
    assert one.views(one.config) is PLAIN
    assert pckd.PCKD.views(pckd.PCKD.Config()).quarter_turns == (0, 1, 2, 3)
    plain = one.loss(outputs("student", 2), outputs("teacher", 2, seed=1), batch)
    assert all(term.isfinite() for term in plain.values())
    assert (one.min_images, bare.min_images) == (2, 1)

    narrow, wide = stub_net(), stub_net(width=12)
    assert "centre" not in pckd.PCKD(pckd.PCKD.Config(), stub_setup(narrow, wide)).loss(
        student, outputs_of_width(teacher, 12), batch
    )
    with pytest.raises(ValueError, match="cannot be aligned"):
        pckd.PCKD(pckd.PCKD.Config(on_mismatch="error"), stub_setup(narrow, wide))


def outputs_of_width(side: Outputs, width: int) -> Outputs:
    rows = side.logits.shape[0]
    return Outputs(
        "teacher",
        logits=side.logits,
        penultimate=torch.ones(rows, width),
        weight=torch.ones(10, width),
        bias=side.bias,
    )


@pytest.mark.parametrize("detach", [False, True])
def test_pckd_preview_is_differentiable_in_the_kd_term_alone(detach: bool) -> None:
    """With equal teacher and student the KL and its gradient vanish; otherwise detaching changes the gradient."""
    gradients = []
    for detach_preview in (detach, True):
        student, teacher = outputs("student", 16, seed=3), outputs("teacher", 16, seed=4)
        module = built(pckd.PCKD, detach_preview=detach_preview)
        module.loss(student, teacher, stub_batch(torch.arange(4)))["kd"].backward()
        assert student.logits.grad is not None
        assert student.logits.grad[4:].abs().max() == 0  # the rotated views see neither CE nor KD
        gradients.append(student.logits.grad)
    assert torch.equal(gradients[0], gradients[1]) is detach


# --- settings and recipes ---


def test_dkd_refuses_two_classes() -> None:
    net = stub_net(num_classes=2)
    with pytest.raises(ValueError, match="at least 3 classes"):
        dkd.DKD(dkd.DKD.Config(), stub_setup(net, net))


def test_dkd_warms_up_over_a_fraction_of_training() -> None:
    factors = [warmup_factor(epoch / 240, 20 / 240) for epoch in (1, 5, 20, 21, 240)]
    assert factors == pytest.approx([0.05, 0.25, 1, 1, 1])
    assert warmup_factor(1 / 30, 20 / 240) == pytest.approx(0.4)
    assert warmup_factor(1 / 240, 0.0) == 1


@pytest.mark.parametrize("method", DESCRIBED)
def test_settings_are_described_and_checked(method: type[Method]) -> None:
    fields = {field.name: field for field in dataclasses.fields(method.Config)}
    docs = field_docs(method.Config)
    assert all(docs[name] for name in fields), docs
    assert set(method.OURS) <= set(fields)
    hints = get_type_hints(method.Config)
    for name in fields:
        if hints[name] is bool or get_args(hints[name]):  # the registry checks choices
            continue
        with pytest.raises(ValueError, match=name):
            method.Config(**{name: -1})
        if hints[name] is float:
            with pytest.raises(ValueError, match=name):
                method.Config(**{name: math.nan})
        if "temperature" in name:
            with pytest.raises(ValueError, match=name):
                method.Config(**{name: 0.0})


def recipes(method: type[Method]) -> list[dict[str, Any]]:
    name = method.__module__.rpartition(".")[2]
    text = (Path(kdbench.methods.__path__[0]) / f"{name}.toml").read_text()
    found: list[dict[str, Any]] = tomllib.loads(text).get("recipe", [])
    return found


@pytest.mark.parametrize("method", DESCRIBED)
def test_recipes_agree_with_the_code(method: type[Method]) -> None:
    """Keys are fields, types match, values differ from the default, pairs are known and stand once."""
    hints = get_type_hints(method.Config)
    default = method.Config()
    seen: list[tuple[str, str]] = []
    for recipe in recipes(method):
        assert recipe.keys() == {"dataset", "pairs", "settings", "source"}
        assert recipe["source"]
        assert recipe["dataset"] == "cifar100"
        seen += [(recipe["dataset"], pair) for pair in recipe["pairs"]]
        for key, value in recipe["settings"].items():
            assert type(value) is hints[key], f"{key} = {value!r}"
            assert value != getattr(default, key), f"{key} = {value!r} is the default"
        method.Config(**recipe["settings"])
    assert {pair for _, pair in seen} <= CIFAR_PAIRS
    assert len(seen) == len(set(seen))


def test_published_settings_are_found() -> None:
    betas = {pair: dkd.DKD.Config(**recipe["settings"]).beta for recipe in recipes(dkd.DKD) for pair in recipe["pairs"]}
    assert len(betas) == 11
    assert (betas["resnet56>resnet20"], betas["wrn_40_2>wrn_16_2"], betas["resnet32x4>resnet8x4"]) == (2, 6, 8)
    for method in (
        kd.KD,
        crd.CRD,
        at.AT,
        sp.SP,
        pkt.PKT,
        rkd.RKD,
        nst.NST,
        cc.CC,
        fitnet.FitNet,
        vid.VID,
        ab.AB,
        ft.FT,
    ):
        assert {pair for recipe in recipes(method) for pair in recipe["pairs"]} == CIFAR_PAIRS


@pytest.mark.parametrize("method", DESCRIBED)
def test_a_file_exposes_its_method(method: type[Method]) -> None:
    assert importlib.import_module(method.__module__).METHOD is method
    assert method.FAMILY in {"none", "logits", "features", "relations", "contrast"}
    assert all("\n" not in line for line in method.DEVIATIONS)
