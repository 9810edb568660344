"""Stored values and properties of AB, FSP, FT and SSKD, the methods with pre-training."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_files import Case, load, names
from stub_nets import stub_batch, stub_net, stub_setup
from test_methods_properties import CIFAR_PAIRS, STAGES, built, outputs, recipes
from test_parity_losses import check_gradients, check_state, load_weights, sides, total, view_major, weight_leaves
from torch import Tensor, nn

from kdbench.functional import cross_entropy
from kdbench.method import Method, Reads
from kdbench.methods import ab, fsp, ft, sskd
from kdbench.methods.kd import kl_per_image
from kdbench.models import build_backbone
from kdbench.net import Net, Outputs

pytestmark = pytest.mark.once

NO_OUTPUTS = Outputs("student")
ANY_BATCH = stub_batch(torch.arange(5))


def levels(case: Case, prefix: str, first: int = 1, *, grad: bool = False) -> dict[str, Tensor]:
    """Stages up to 3, by stored name."""
    return {f"{prefix}.{i}": case.tensor(f"in.{prefix}.{i}", grad=grad) for i in range(first, 4)}


def net_of(maps: list[Tensor], **more: Any) -> Net:
    return stub_net(shapes=[tuple(m.shape[1:]) for m in maps], **more)


@functools.cache
def cifar_net(name: str) -> Net:
    return Net(name, build_backbone(name, 100, (32, 32)), mean=(0.0,) * 3, std=(1.0,) * 3, image_size=(32, 32))


def check_main_stage_is_the_task_alone(kind: type[Method], student: Net, teacher: Net) -> None:
    """Cross entropy, and KD's divergence where it has a weight; what else the networks show is not read."""
    logits = [torch.randn(5, 10, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    both = Outputs("student", logits=logits[0]), Outputs("teacher", logits=logits[1])
    ce, kl = cross_entropy(logits[0], ANY_BATCH.targets).mean(), kl_per_image(*logits, 4.0).mean()
    for weight, expected in ((0.0, {"ce": ce}), (0.5, {"ce": ce, "kd": 0.5 * kl})):
        method = kind(kind.Config(kd_weight=weight), stub_setup(student, teacher))
        assert kind.reads(method.config, "training").teacher == ({"logits"} if weight else set())
        terms = method.loss(*both, ANY_BATCH)
        assert list(terms) == list(expected)
        torch.testing.assert_close(terms, expected)


@pytest.mark.parametrize("kind", [ab.AB, fsp.FSP, ft.FT, sskd.SSKD])
def test_pretraining_is_in_float32_and_does_not_depend_on_the_order_of_a_batch(kind: type[Method]) -> None:
    module = built(kind)
    stage = module.pretrain(stub_net(shapes=STAGES))
    for part in stage.train:
        part.requires_grad_(True)
    views, order = module.views(module.config).num_views, torch.tensor([4, 2, 0, 1, 3])
    owners = [outputs(owner, 5 * views, seed=seed) for seed, owner in enumerate(("student", "teacher"))]
    losses = []
    for chosen in (torch.arange(5), order):
        rows = torch.cat([view * 5 + chosen for view in range(views)])
        for dtype in (torch.bfloat16, torch.float32):
            maps = [tuple(level[rows].to(dtype) for level in side.stages) for side in owners]
            wide = [side.penultimate[rows].to(dtype) for side in owners]
            student, teacher = (
                Outputs(side, penultimate=pooled, stages=stages, preact=stages)
                for side, pooled, stages in zip(("student", "teacher"), wide, maps, strict=True)
            )
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                (loss,) = stage.loss(student, teacher, stub_batch(order)).values()
            assert loss.dtype == torch.float32
            assert loss.isfinite()
        losses.append(loss)
    assert losses[0] > 0
    torch.testing.assert_close(losses[0], losses[1])
    losses[0].backward()
    maps_read = owners[0].stages if kind.reads(module.config, "pretraining").student else ()
    reached = [*maps_read, *(parameter for part in stage.freeze for parameter in part.parameters())]
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in reached)


# --- AB ---


@pytest.mark.parametrize("name", names("ab"))
def test_ab(name: str) -> None:
    case = load("ab", name)
    ours, theirs = levels(case, "preact_feats_s", grad=True), levels(case, "preact_feats_t")
    config = ab.AB.Config(ab_weight=case.value("hp.scale"), margin=case.value("hp.margin"))
    assert config == ab.AB.Config()
    student, teacher = (net_of(list(maps.values())) for maps in (ours, theirs))
    method = ab.AB(config, stub_setup(student, teacher)).to(case.dtype)
    load_weights(case, method, {"": ""})
    both = Outputs("student", preact=tuple(ours.values())), Outputs("teacher", preact=tuple(theirs.values()))
    terms = method.pretrain(student).loss(*both, ANY_BATCH)
    case.check("out.total", total(terms))
    total(terms).backward()
    check_gradients(case, ours | weight_leaves(method, {"": ""}))
    check_state(case, "buf_after1.", method.state_dict())
    case.check("out.ab_per_stage", method.boundary_losses(*both))
    for i, (connector, maps, goal) in enumerate(zip(method.connectors, ours.values(), theirs.values(), strict=True)):
        connected = connector(maps)
        case.check(f"out.connected.{i}", connected)
        factor = case.tensor("hp.stage_weights")[i] * case.value("hp.scale")
        loss, stored = ab.boundary_loss(connected, goal, config.margin), case.tensor("out.ab_per_stage")[i]
        torch.testing.assert_close(factor * loss, stored, rtol=1e-9, atol=0)


def test_ab_wants_nothing_of_a_student_beyond_the_margin_on_the_teachers_side() -> None:
    goal = torch.tensor([2.0, 0.1, -3.0, 0.0]).expand(1, 1, 1, 4)
    right = torch.tensor([1.0, 5.0, -1.0, -2.0], requires_grad=True)
    loss = ab.boundary_loss(right.expand(2, 1, 1, 4), goal.expand(2, 1, 1, 4), 1.0)
    (gradient,) = torch.autograd.grad(loss, right)
    assert loss == gradient.abs().max() == 0
    wrong = torch.tensor([0.5, -1.0, 0.0, 1.0]).expand(1, 1, 1, 4)
    assert ab.boundary_loss(wrong, goal, 1.0) == 0.5**2 + 2**2 + 1**2 + 2**2


def test_ab_trains_all_below_the_classifier_and_drops_its_connectors() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    student, teacher = stub_net(shapes=shapes), stub_net(shapes=[(4, 8, 8), (8, 4, 4)])
    method = ab.AB(ab.AB.Config(), stub_setup(student, teacher))
    assert isinstance(method.connectors[0], nn.Identity)
    stage = method.pretrain(student)
    assert stage.train == (method.connectors, student)
    assert stage.freeze == (method.connectors,)
    assert ab.AB.reads(method.config, "pretraining") == Reads({"preact", "stages"}, {"preact"})
    assert (stage.learning_rate, stage.milestones) == (None, ())
    assert ab.AB.pretraining(method.config) == pytest.approx(30 / 240)
    check_main_stage_is_the_task_alone(ab.AB, student, teacher)


def test_ab_reads_the_stages_of_a_student_without_maps_before_the_relu_and_refuses_such_a_teacher() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    bare, whole = stub_net(shapes=shapes, preact=False), stub_net(shapes=shapes)
    method = ab.AB(ab.AB.Config(), stub_setup(bare, whole))
    stage = method.pretrain(bare)
    assert not method.student_preact
    maps = tuple(torch.randn(5, *shape) for shape in shapes)
    assert stage.loss(Outputs("student", stages=maps), Outputs("teacher", preact=maps), ANY_BATCH)["ab"] > 0
    with pytest.raises(ValueError, match="before the last ReLU"):
        ab.AB(ab.AB.Config(), stub_setup(whole, bare))
    with pytest.raises(ValueError, match="equally many stages"):
        ab.AB(ab.AB.Config(), stub_setup(stub_net(shapes=shapes[1:]), whole))


# --- FSP ---


@pytest.mark.parametrize("name", names("fsp"))
def test_fsp(name: str) -> None:
    case = load("fsp", name)
    ours, theirs = levels(case, "feats_s", 0, grad=True), levels(case, "feats_t", 0)
    both, nets = [], []
    for owner, maps in (("student", ours), ("teacher", theirs)):
        stem, *stages = maps.values()
        both.append(Outputs(owner, stem=stem, stages=tuple(stages)))
        nets.append(net_of(stages, stem=tuple(stem.shape[1:])))
    terms = fsp.FSP(fsp.FSP.Config(), stub_setup(*nets)).pretrain(nets[0]).loss(*both, ANY_BATCH)
    case.check("out.total", total(terms))
    total(terms).backward()
    check_gradients(case, ours)
    case.check("out.fsp_per_pair", fsp.fsp_losses(list(ours.values()), list(theirs.values())))
    for side, maps in (("s", ours), ("t", theirs)):
        for i in range(3):
            flow = fsp.flow(maps[f"feats_{side}.{i}"], maps[f"feats_{side}.{i + 1}"])
            case.check(f"out.fsp_matrices_{side}.{i}", flow)


def test_fsp_trains_all_below_the_classifier_and_uses_a_stem_that_both_have() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    bare, whole = stub_net(shapes=shapes), stub_net(shapes=shapes, stem=(3, 8, 8))
    for student, teacher, has_stems in ((whole, whole, True), (bare, whole, False)):
        method = fsp.FSP(fsp.FSP.Config(), stub_setup(student, teacher))
        stage = method.pretrain(student)
        assert (stage.train, stage.freeze) == ((student,), ())
        assert method.has_stems is has_stems
        assert (stage.learning_rate, stage.milestones) == (None, ())
    maps = tuple(torch.randn(5, *shape) for shape in shapes)
    loss = stage.loss(Outputs("student", stages=maps), Outputs("teacher", stages=(maps[0], 2 * maps[1])), ANY_BATCH)
    torch.testing.assert_close(loss["fsp"], fsp.flow(*maps).square().mean())
    assert fsp.FSP.pretraining(method.config) == pytest.approx(30 / 240)
    check_main_stage_is_the_task_alone(fsp.FSP, bare, whole)


def test_fsp_refuses_networks_that_it_cannot_compare() -> None:
    shapes = [(4, 8, 8), (6, 4, 4)]
    whole, wide = stub_net(shapes=shapes, stem=(3, 8, 8)), stub_net(shapes=shapes, stem=(5, 8, 8))
    for other in (wide, stub_net(shapes=shapes[:1]), stub_net(shapes=[(4, 8, 8), (7, 4, 4)])):
        with pytest.raises(ValueError, match="equally many channels"):
            fsp.FSP(fsp.FSP.Config(), stub_setup(whole, other))
    single = stub_net(shapes=shapes[:1])
    with pytest.raises(ValueError, match="neighbouring maps"):
        fsp.FSP(fsp.FSP.Config(), stub_setup(single, single))


def test_fsps_published_pairs_are_those_it_can_compare() -> None:
    """And AB's are all of them."""
    able: dict[type[Method], set[str]] = {ab.AB: set(), fsp.FSP: set()}
    for pair in CIFAR_PAIRS:
        teacher, student = map(cifar_net, pair.split(">"))
        for kind, pairs in able.items():
            with contextlib.suppress(ValueError):
                kind(kind.Config(), stub_setup(student, teacher))
                pairs.add(pair)
    for kind, pairs in able.items():
        assert {pair for recipe in recipes(kind) for pair in recipe["pairs"]} == pairs
    assert len(able[ab.AB]) == 13


# --- FT ---

FT_WEIGHTS = {
    "translator.": "translator.encoder.",
    "paraphraser.": "paraphraser.encoder.",
    "decoder.": "paraphraser.decoder.",
}


@pytest.mark.parametrize("name", names("ft"))
def test_ft(name: str) -> None:
    case = load("ft", name)
    ours, theirs = case.tensor("in.feats_s.3", grad=True), case.tensor("in.feats_t.3")
    logits, teacher_logits, targets = sides(case)
    config = ft.FT.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kl_weight"),
        kd_temperature=case.value("hp.kl_T"),
        ft_weight=case.value("hp.kd_weight"),
        paraphrase_rate=case.value("hp.k"),
    )
    assert (case.value("hp.p1"), case.value("hp.p2")) == (2, 1)
    student, teacher = net_of([ours]), net_of([theirs])
    method = ft.FT(config, stub_setup(student, teacher)).to(case.dtype)
    load_weights(case, method, FT_WEIGHTS)
    student_sees = Outputs("student", logits=logits, stages=(ours,))
    teacher_sees = Outputs("teacher", logits=teacher_logits, stages=(theirs,))

    terms = method.pretrain(student).loss(NO_OUTPUTS, teacher_sees.narrowed({"stages"}), ANY_BATCH)
    case.check("out.reconstruction_mse", total(terms))
    total(terms).backward()
    check_gradients(case, weight_leaves(method, FT_WEIGHTS), "grad_reconstruction.")
    case.check("out.reconstruction", method.decoder(method.paraphraser(theirs)))
    method.zero_grad()

    terms = method.loss(student_sees, teacher_sees, stub_batch(targets))
    case.check("out.total", total(terms))
    case.check("out.ce", cross_entropy(logits, targets).mean())
    case.check("out.kl", kl_per_image(logits, teacher_logits, config.kd_temperature).mean())
    case.check("out.ft", terms["ft"] / config.ft_weight)
    total(terms).backward()
    check_gradients(case, {"logits_s": logits, "feats_s.3": ours} | weight_leaves(method, FT_WEIGHTS))
    state = {key.replace("translator.", "translator.encoder."): value for key, value in method.state_dict().items()}
    check_state(case, "buf_after1.", state)
    case.check("out.factor_s", method.translator(ours))
    case.check("out.factor_t", method.paraphraser(theirs))


def test_ft_trains_its_paraphraser_without_the_student_and_then_freezes_it() -> None:
    student, teacher = stub_net(shapes=[(4, 8, 8)]), stub_net(shapes=[(4, 16, 16), (7, 8, 8)])
    method = ft.FT(ft.FT.Config(), stub_setup(student, teacher))
    stage = method.pretrain(student)
    assert stage.train == stage.freeze == (method.paraphraser, method.decoder)
    assert ft.FT.reads(method.config, "pretraining") == Reads(teacher={"stages"})
    assert (stage.learning_rate, stage.milestones) == (0.01, ())
    assert ft.FT.pretraining(method.config) == pytest.approx(30 / 240)
    assert ft.FT.reads(method.config, "training") == Reads({"logits", "stages"}, {"stages"})
    maps = torch.randn(5, 7, 8, 8)
    assert method.paraphraser(maps).shape == (5, 3, 8, 8)  # half of 7
    with pytest.raises(ValueError, match="at least 1 stage"):
        ft.FT(ft.FT.Config(), stub_setup(stub_net(), teacher))
    single = ft.FT(ft.FT.Config(), stub_setup(stub_net(shapes=[(4, 1, 1)]), teacher))
    pixel = Outputs("student", logits=torch.zeros(1, 10), stages=(torch.randn(1, 4, 1, 1),))
    assert (method.min_images, single.min_images) == (1, 2)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        single.loss(pixel, Outputs("teacher", stages=(maps[:1],)), stub_batch(torch.tensor([0])))


@pytest.mark.parametrize(("student", "rate"), [("resnet20", 0.01), ("MobileNetV2", 0.01), ("vgg8", 0.05)])
def test_fts_published_learning_rate_depends_on_the_student(student: str, rate: float) -> None:
    found = {
        ft.FT.Config(**recipe["settings"]).init_learning_rate
        for recipe in recipes(ft.FT)
        for pair in recipe["pairs"]
        if pair.endswith(f">{student}")
    }
    assert found == {rate}


# --- SSKD ---

SSKD_WEIGHTS = {"student_head.": "student.proj_head.", "teacher_head.": "teacher.proj_head."}


def sample_major(rows: Tensor, views: int) -> Tensor:
    """Rows in the order of the files, whose views of an image stand together."""
    return rows.view(views, -1, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize("name", names("sskd"))
def test_sskd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values with the stored choice of rows; our own choice has as many rows, of the same ranks."""
    case = load("sskd", name)
    views = int(case.value("hp.views"))
    leaves = {key: case.tensor(f"in.{key}", grad=True) for key in ("logits_s", "pooled_s")}
    targets = case.tensor("in.target")
    student, teacher = (
        Outputs(
            owner,
            logits=view_major(leaves.get(f"logits_{side}", case.tensor(f"in.logits_{side}")), views),
            penultimate=view_major(leaves.get(f"pooled_{side}", case.tensor(f"in.pooled_{side}")), views),
        )
        for owner, side in (("student", "s"), ("teacher", "t"))
    )
    config = sskd.SSKD.Config(
        **{f"{term}_weight": case.value(f"hp.{term}_weight") for term in ("ce", "kd", "tf", "ss")},
        **{f"{term}_temperature": case.value(f"hp.{term}_T") for term in ("kd", "tf", "ss")},
        **{f"{term}_ratio": case.value(f"hp.ratio_{term}") for term in ("tf", "ss")},
    )
    assert config == sskd.SSKD.Config()
    assert sskd.SSKD.views(config).num_views == views
    num_classes = student.logits.shape[1]
    nets = [stub_net(width=side.penultimate.shape[1], num_classes=num_classes) for side in (student, teacher)]
    method = sskd.SSKD(config, stub_setup(*nets)).to(case.dtype)
    load_weights(case, method, SSKD_WEIGHTS)

    num_rows, num_images = (views - 1) * len(targets), len(targets)
    similar = [
        sskd.similarities(head(side.penultimate), num_images)
        for head, side in ((method.student_head, student), (method.teacher_head, teacher))
    ]
    for side, scores in zip("st", similar, strict=True):
        case.check(f"out.similarity_{side}", sample_major(scores, views - 1))
    scores = {"tf": teacher.logits[num_images:], "ss": similar[1]}
    goals = {"tf": targets.repeat(views - 1), "ss": torch.arange(num_images).repeat(views - 1)}
    assert torch.equal(sskd.own_images(similar[1]), goals["ss"])
    stored = {}
    for term in ("tf", "ss"):
        chosen = torch.zeros(num_rows, dtype=torch.bool)
        chosen[case.tensor(f"out.kept_{term}")] = True
        ratio = case.value(f"hp.ratio_{term}")
        stored[ratio] = view_major(chosen, views - 1)
        ours = sskd.kept_rows(scores[term], goals[term], ratio)
        ranks = (-scores[term]).argsort(dim=1).eq(goals[term][:, None]).int().argmax(dim=1)
        assert torch.equal(ranks[ours].sort().values, ranks[stored[ratio]].sort().values)

    monkeypatch.setattr(sskd, "kept_rows", lambda *given: stored[given[2]])
    terms = method.loss(student, teacher, stub_batch(targets))
    for term in ("ce", "kd", "tf", "ss"):
        case.check(f"out.{term}", terms[term] / case.value(f"hp.{term}_weight"))
    case.check("out.total", total(terms))
    total(terms).backward()
    check_gradients(case, leaves | weight_leaves(method, SSKD_WEIGHTS))


@given(seed=st.integers(0, 2**31 - 1), ratio=st.sampled_from([0.0, 0.3, 0.75, 0.9, 1.0]))
@settings(max_examples=40, deadline=None)
def test_sskd_keeps_what_is_right_and_the_least_wrong_of_the_rest(seed: int, ratio: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(6, (12, 5), generator=generator).double()
    targets = torch.randint(5, (12,), generator=generator)
    rows = zip(scores.tolist(), targets.tolist(), strict=True)
    ranks = [sum(score > row[goal] for score in row) for row, goal in rows]
    wrong = [rank for rank in ranks if rank > 0]
    order = sorted(range(12), key=ranks.__getitem__)  # stable
    expected = set(order[: 12 - len(wrong) + int(ratio * len(wrong))])
    kept = sskd.kept_rows(scores, targets, ratio)
    assert {row for row, keep in enumerate(kept.tolist()) if keep} == expected
    divergence = sskd.kept_divergence(scores.flip(1), scores, targets, 4.0, ratio)
    literal = [kl_per_image(scores[[row]].flip(1), scores[[row]], 4.0).item() for row in expected]
    assert divergence.item() == pytest.approx(sum(literal) / max(len(literal), 1), rel=1e-12)


def test_sskds_head_learns_to_find_each_rotated_views_own_image() -> None:
    """Cross entropy over cosines with the plain views; only the teacher's head is trained, without the student."""
    torch.manual_seed(0)
    student, teacher = stub_net(width=6), stub_net(width=8)
    method = sskd.SSKD(sskd.SSKD.Config(), stub_setup(student, teacher)).double()
    stage = method.pretrain(student)
    assert stage.train == stage.freeze == (method.teacher_head,)
    assert sskd.SSKD.reads(method.config, "pretraining") == Reads(teacher={"penultimate"})
    assert (stage.learning_rate, stage.milestones) == (0.05, (30 / 60, 45 / 60))
    assert sskd.SSKD.pretraining(method.config) == pytest.approx(60 / 240)
    for config in (method.config, sskd.SSKD.Config(kd_weight=0.0)):
        assert sskd.SSKD.reads(config, "training").teacher == {"logits", "penultimate"}

    features = torch.randn(4 * 5, 8, dtype=torch.float64)
    (loss,) = stage.loss(NO_OUTPUTS, Outputs("teacher", penultimate=features), ANY_BATCH).values()
    projected = method.teacher_head(features)
    losses = []
    for row in range(5, 20):
        cosines = nn.functional.cosine_similarity(projected[row][None], projected[:5])
        losses.append(cosines.logsumexp(0) - cosines[row % 5])
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    loss.backward()
    assert all(parameter.grad is not None for parameter in method.teacher_head.parameters())
    assert all(parameter.grad is None for parameter in method.student_head.parameters())
