"""Stored values and properties of FitNet, DIST, NKD, VID, OFD, SRRL and ICKD, and of standardised logits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from parity_files import FOLDER, Case, load, names
from stub_nets import stub_batch, stub_net, stub_setup
from test_parity_losses import check_gradients, check_state, load_weights, sides, total, weight_leaves
from torch import Tensor, nn

from kdbench.config import deciding
from kdbench.experiment.settings import resolve_settings
from kdbench.functional import cross_entropy
from kdbench.method import Batch, Method
from kdbench.methods import dist, dkd, fitnet, ickd, kd, nkd, ofd, srrl, vid
from kdbench.methods._connectors import SizingConnector
from kdbench.models import build_backbone
from kdbench.net import Net, Outputs

pytestmark = pytest.mark.once


def task_settings(case: Case) -> dict[str, Any]:
    """Weights of the cross entropy and of KD's divergence, and its temperature where the file has one."""
    found = {"ce_weight": "hp.ce_weight", "kd_weight": "hp.kl_weight", "kd_temperature": "hp.kl_T"}
    return {ours: case.value(stored) for ours, stored in found.items() if stored in case.arrays}


def own_weight(case: Case) -> float:
    """Weight of the method's own term."""
    return case.value("hp.feat_weight" if "hp.feat_weight" in case.arrays else "hp.kd_weight")


def net_of(maps: list[Tensor] | None = None, *, width: int = 8, num_classes: int = 10) -> Net:
    return stub_net(width=width, num_classes=num_classes, shapes=[tuple(m.shape[1:]) for m in maps or []])


def check_task(case: Case, terms: dict[str, Tensor], leaves: dict[str, Tensor]) -> None:
    """Cross entropy, divergence, total and every gradient."""
    logits, teacher, targets = leaves["logits_s"], case.tensor("in.logits_t"), case.tensor("in.target")
    case.check("out.ce", cross_entropy(logits, targets).mean())
    if "out.kl" in case.arrays:
        case.check("out.kl", kd.kl_per_image(logits, teacher, case.value("hp.kl_T")).mean())
    loss = total(terms)
    case.check("out.total", loss)
    loss.backward()
    check_gradients(case, leaves)


def levels(case: Case, prefix: str, *, grad: bool) -> dict[str, Tensor]:
    """Stages 1 to 3, by stored name."""
    return {f"{prefix}.{i}": case.tensor(f"in.{prefix}.{i}", grad=grad) for i in range(1, 4)}


# --- FitNet ---


@pytest.mark.parametrize("name", names("fitnet"))
def test_fitnet(name: str) -> None:
    """The stored layer 2 counts the stem as 0, so it is the second stage."""
    case = load("fitnet", name)
    logits, teacher_logits, targets = sides(case)
    ours, theirs = case.tensor("in.feats_s.2", grad=True), case.tensor("in.feats_t.2")
    stage = int(case.value("hp.hint_layer"))
    config = fitnet.FitNet.Config(**task_settings(case), hint_weight=own_weight(case), hint_stage=stage)
    nets = [net_of([maps] * stage) for maps in (ours, theirs)]
    method = fitnet.FitNet(config, stub_setup(nets[0], nets[1])).to(case.dtype)
    load_weights(case, method, {"regressor.": "conv_reg."})
    unread = torch.full_like(ours, torch.nan)
    terms = method.loss(
        Outputs("student", logits=logits, stages=(unread, ours)),
        Outputs("teacher", logits=teacher_logits, stages=(unread, theirs)),
        stub_batch(targets),
    )
    leaves = {"logits_s": logits, "feats_s.2": ours} | weight_leaves(method, {"regressor.": "conv_reg."})
    check_task(case, terms, leaves)
    check_state(
        case, "buf_after1.", {key.replace("regressor", "conv_reg"): v for key, v in method.state_dict().items()}
    )
    regressed = method.regressor(ours).relu()
    case.check("out.regressed", regressed)
    case.check("out.hint", fitnet.hint_loss(regressed, theirs))
    case.check("out.hint", terms["hint"] / config.hint_weight)


@pytest.mark.parametrize("student", [(4, 8, 8), (4, 16, 16), (4, 4, 4), (4, 10, 9), (4, 3, 3), (4, 6, 12)])
def test_fitnet_meets_a_teacher_of_any_size(student: tuple[int, int, int]) -> None:
    """It has the teacher's size where the student's is equal, double, half or larger, else the student's."""
    teacher = (6, 8, 8)
    shape = SizingConnector(student, teacher)(torch.randn(2, *student)).shape
    assert shape == (2, *(teacher if student[1:] not in ((3, 3), (6, 12)) else (6, *student[1:])))
    assert fitnet.hint_loss(torch.ones(shape), torch.ones(2, *teacher)) == 0


def test_fitnet_refuses_a_network_without_the_stage() -> None:
    shallow, deep = stub_net(shapes=[(4, 8, 8)]), stub_net(shapes=[(4, 8, 8), (6, 4, 4)])
    with pytest.raises(ValueError, match="hint_stage"):
        fitnet.FitNet(fitnet.FitNet.Config(), stub_setup(shallow, deep))
    method = fitnet.FitNet(fitnet.FitNet.Config(hint_stage=1), stub_setup(shallow, deep))
    assert method.loss(random_outputs("student", (4, 8, 8)), random_outputs("teacher", (4, 8, 8)), batch_of(3))


# --- DIST ---


@pytest.mark.parametrize("name", names("dist"))
def test_dist(name: str) -> None:
    """The stored weight of the whole is a factor of both terms here."""
    case = load("dist", name)
    logits, teacher, targets = sides(case)
    weights = [case.value(f"hp.{key}") for key in ("beta", "gamma")]
    both = case.value("hp.kd_weight")
    config = dist.DIST.Config(
        ce_weight=case.value("hp.ce_weight"),
        inter_weight=both * weights[0],
        intra_weight=both * weights[1],
        temperature=case.value("hp.tau"),
        epsilon=case.value("hp.eps"),
    )
    inter, intra = dist.relation_losses(logits, teacher, config.temperature, config.epsilon)
    case.check("out.inter", inter)
    case.check("out.intra", intra)
    case.check("out.dist", weights[0] * inter + weights[1] * intra)
    check_logit_method(case, dist.DIST, config, logits, teacher, targets)


def check_logit_method(
    case: Case, kind: type[Method], config: Any, logits: Tensor, teacher: Tensor, targets: Tensor, epoch: int = 1
) -> dict[str, Tensor]:
    net = net_of(num_classes=logits.shape[1])
    sides = Outputs("student", logits=logits), Outputs("teacher", logits=teacher)
    terms = kind(config, stub_setup(net, net)).loss(*sides, stub_batch(targets, epoch=epoch))
    check_task(case, terms, {"logits_s": logits})
    return terms


def test_dist_ignores_the_scale_of_correlated_predictions() -> None:
    """Pearson's correlation does not change when predictions are stretched about their mean; it is 1 at equality."""
    ours, theirs = random_logits(0), random_logits(1)
    for dim in (0, 1):
        plain = dist.pearson(ours, theirs, dim=dim, epsilon=0)
        torch.testing.assert_close(plain, dist.pearson(3 * ours + 1, 0.5 * theirs - 2, dim=dim, epsilon=0))
        torch.testing.assert_close(dist.pearson(ours, ours, dim=dim, epsilon=0), torch.ones_like(plain))
        torch.testing.assert_close(
            plain[0], torch.corrcoef(torch.stack([x.select(1 - dim, 0) for x in (ours, theirs)]))[0, 1]
        )
    inter, intra = dist.relation_losses(ours, ours, 4.0, 1e-8)
    assert max(inter, intra) < 1e-3
    assert dist.relation_losses(ours[:1], ours[:1], 4.0, 1e-8)[1] == 16


# --- NKD ---


@pytest.mark.parametrize("name", names("nkd"))
def test_nkd(name: str) -> None:
    case = load("nkd", name)
    logits, teacher, targets = sides(case)
    config = nkd.NKD.Config(
        ce_weight=case.value("hp.ce_weight"), gamma=case.value("hp.gamma"), temperature=case.value("hp.temp")
    )
    target = nkd.target_loss(logits, teacher, targets)
    others = config.gamma * nkd.others_loss(logits, teacher, targets, config.temperature)
    case.check("out.target_term", target)
    case.check("out.non_target_term_weighted", others)
    case.check("out.nkd", target + others)
    check_logit_method(case, nkd.NKD, config, logits, teacher, targets)


def test_nkds_other_classes_have_no_gradient_at_the_teacher() -> None:
    logits, targets = random_logits(0).requires_grad_(), torch.tensor([0, 3, 1, 1, 6, 2])
    (gradient,) = torch.autograd.grad(nkd.others_loss(logits, logits.detach(), targets, 2.0), logits)
    assert gradient.abs().max() < 1e-12
    net = net_of(num_classes=2)
    with pytest.raises(ValueError, match="at least 3 classes"):
        nkd.NKD(nkd.NKD.Config(), stub_setup(net, net))


# --- VID ---


def vid_names(name: str) -> dict[str, str]:
    """Our names of a stage's parameters and the reference's."""
    found = {}
    for i in range(3):
        repository = (
            (f"regressors.{i}.", f"log_scales.{i}")
            if name.startswith("md")
            else (f"vid.{i}.regressor.", f"vid.{i}.log_scale")
        )
        found |= dict(zip((f"regressors.{i}.", f"log_scales.{i}"), repository, strict=True))
    return found


@pytest.mark.parametrize("name", names("vid"))
def test_vid(name: str) -> None:
    """mdistiller never trains the scales, but the file holds their gradients all the same."""
    case = load("vid", name)
    logits, teacher_logits, targets = sides(case)
    ours, theirs = levels(case, "feats_s", grad=True), levels(case, "feats_t", grad=False)
    config = vid.VID.Config(
        **task_settings(case),
        vid_weight=own_weight(case),
        initial_variance=case.value("hp.init_pred_var"),
        epsilon=case.value("hp.eps"),
    )
    nets = [net_of(list(maps.values())) for maps in (ours, theirs)]
    method = vid.VID(config, stub_setup(nets[0], nets[1])).to(case.dtype)
    if "hp.log_scale_initial" in case.arrays:
        assert method.log_scales[0][0].item() == pytest.approx(case.value("hp.log_scale_initial"), rel=1e-6)
    load_weights(case, method, vid_names(name))
    terms = method.loss(
        Outputs("student", logits=logits, stages=tuple(ours.values())),
        Outputs("teacher", logits=teacher_logits, stages=tuple(theirs.values())),
        stub_batch(targets),
    )
    check_task(case, terms, {"logits_s": logits} | ours | weight_leaves(method, vid_names(name)))
    losses = []
    stages = zip(ours.values(), theirs.values(), strict=True)
    for i, (maps, whole) in enumerate(stages):
        mean = method.regressors[i](maps)
        goal = nn.functional.adaptive_avg_pool2d(whole, mean.shape[2:])
        losses.append(vid.vid_loss(mean, method.log_scales[i], goal, config.epsilon))
    case.check("out.vid_per_stage", torch.stack(losses))


def test_vid_is_the_gaussian_log_likelihood_and_can_keep_its_scales() -> None:
    mean, goal = (torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(i)).double() for i in (0, 1))
    scale = torch.linspace(-1, 1, 4).double()
    variance = (nn.functional.softplus(scale) + 1e-5)[:, None, None]
    likelihood = torch.distributions.Normal(mean, variance.sqrt()).log_prob(goal).mean()
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(vid.vid_loss(mean, scale, goal, 1e-5), -likelihood - constant, check_dtype=False)
    net = stub_net(shapes=[(4, 8, 8)])
    fixed = vid.VID(vid.VID.Config(learn_scales=False), stub_setup(net, net))
    assert not any(scale.requires_grad for scale in fixed.log_scales)
    assert nn.functional.softplus(fixed.log_scales[0]) + 1e-5 == pytest.approx(torch.full((4,), 5.0))
    with pytest.raises(ValueError, match="initial_variance"):
        vid.VID.Config(initial_variance=1e-6)


# --- OFD ---


def ofd_norms(case: Case) -> tuple[nn.BatchNorm2d, ...]:
    norms = []
    for weight, bias in zip(
        case.group("in.teacher_bn_weight.").values(), case.group("in.teacher_bn_bias.").values(), strict=True
    ):
        norm = nn.BatchNorm2d(len(weight), dtype=case.dtype)
        norm.load_state_dict(norm.state_dict() | {"weight": weight, "bias": bias})
        norms.append(norm)
    return tuple(norms)


@pytest.mark.parametrize("name", names("ofd"))
def test_ofd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original's term is summed over the batch and divided by it in the trainer."""
    case = load("ofd", name)
    logits, teacher_logits, targets = sides(case)
    ours, theirs = levels(case, "preact_feats_s", grad=True), levels(case, "preact_feats_t", grad=False)
    assert case.value("hp.kernel_size") == 1
    config = ofd.OFD.Config(**task_settings(case), ofd_weight=case.value("hp.feat_weight"))
    nets = [net_of(list(maps.values())) for maps in (ours, theirs)]
    monkeypatch.setattr(nets[1].backbone, "preact_norms", lambda: ofd_norms(case))
    method = ofd.OFD(config, stub_setup(nets[0], nets[1])).to(case.dtype)
    load_weights(case, method, {"": ""})
    terms = method.loss(
        Outputs("student", logits=logits, preact=tuple(ours.values())),
        Outputs("teacher", logits=teacher_logits, preact=tuple(theirs.values())),
        stub_batch(targets),
    )
    check_task(case, terms, {"logits_s": logits} | ours | weight_leaves(method, {"": ""}))
    check_state(case, "buf_after1.", method.state_dict())
    distances = []
    for i, (maps, whole) in enumerate(zip(ours.values(), theirs.values(), strict=True)):
        connected, margin = method.connectors[i](maps), method.get_buffer(f"margin{i}")
        case.check(f"out.margin.{i}", margin[None])
        if not name.startswith("orig"):
            case.check(f"out.connected.{i}", connected)
        goal = nn.functional.adaptive_avg_pool2d(whole, connected.shape[2:])
        distances.append(ofd.partial_distance(connected, goal, margin))
    summed = (torch.stack(distances) / torch.tensor([4, 2, 1])).sum()
    if name.startswith("orig"):
        case.check("out.ofd_summed_over_batch", summed * len(targets))
    else:
        case.check("out.ofd_per_stage", torch.stack(distances))
        case.check("out.ofd", summed)


def test_ofds_margin_is_the_mean_of_the_negative_values() -> None:
    weight, bias = torch.tensor([1.0, -0.5, 2.0, 0.1, 0.0]), torch.tensor([0.0, 0.3, -1.0, 5.0, -2.0])
    values = bias.double() + weight.double() * torch.randn(10**6, 5, generator=torch.Generator().manual_seed(0))
    means = torch.where(values < 0, values, torch.nan).nanmean(dim=0)
    margin = ofd.negative_mean(weight, bias)
    torch.testing.assert_close(margin[[0, 1, 2, 4]].double(), means[[0, 1, 2, 4]], rtol=5e-3, atol=0)
    assert margin[3] == pytest.approx(-0.3)  # nothing is negative


def test_ofd_wants_nothing_of_a_student_at_or_below_the_margin() -> None:
    margin = torch.tensor([-1.0])[:, None, None]
    goal = torch.tensor([-3.0, -0.5, 2.0]).expand(1, 1, 1, 3)
    below = torch.tensor([-9.0, -0.5, 2.0], requires_grad=True)
    loss = ofd.partial_distance(below.expand(2, 1, 1, 3), goal, margin)
    (gradient,) = torch.autograd.grad(loss, below)
    assert loss == gradient.abs().max() == 0
    assert ofd.partial_distance(torch.tensor([1.0, -0.5, 1.0]).expand(1, 1, 1, 3), goal, margin) == 2**2 + 1


@pytest.mark.parametrize("name", ["resnet20", "resnet110", "resnet32x4", "wrn_40_2", "vgg13", "vgg8", "ResNet50"])
def test_ofd_finds_the_teachers_norms(name: str) -> None:
    """The same modules as in the reference, and as many as there are stages; other networks have none to offer."""
    backbone = build_backbone(name, 10, (32, 32))
    names = {module: name for name, module in backbone.named_modules()}
    stored = json.loads((FOLDER / "models" / "state_dicts" / f"{name}.json").read_text())["RepDistiller"]
    assert [names[norm] for norm in backbone.preact_norms()] == [name for name, _ in stored["bn_before_relu"]]
    assert not build_backbone("ShuffleNetV1", 10, (32, 32)).preact_norms()


def test_ofd_refuses_a_teacher_without_norms_and_matches_the_deepest_stages() -> None:
    shapes = [(4, 8, 8), (6, 4, 4), (7, 2, 2)]
    bare, deep = stub_net(shapes=shapes[1:], preact=False), stub_net(shapes=shapes)
    with pytest.raises(ValueError, match="shows none"):
        ofd.OFD(ofd.OFD.Config(), stub_setup(deep, bare))
    method = ofd.OFD(ofd.OFD.Config(), stub_setup(bare, deep))
    assert [connector[0].out_channels for connector in method.connectors] == [6, 7]
    teacher = random_outputs("teacher", *shapes)
    terms = method.loss(random_outputs("student", *shapes[1:]), teacher, batch_of(3))
    assert terms["ofd"].isfinite()


# --- SRRL ---

SRRL_NAMES = {"official": {"connector.": "connector.Connectors."}, "simrepo": {"connector.": "srrl.transfer."}}


@pytest.mark.parametrize("name", names("srrl"))
def test_srrl(name: str) -> None:
    """The authors' teacher features are the spatial means of its map, its penultimate features."""
    case = load("srrl", name)
    official = name.startswith("official")
    added = SRRL_NAMES[name.partition("_")[0]]
    logits, teacher_logits, targets = sides(case)
    key = "feat_s" if official else "pooled_s"
    ours = case.tensor(f"in.{key}", grad=True)
    goal = case.tensor("in.feat_t").mean(dim=(2, 3)) if official else case.tensor("in.pooled_t")
    weight, bias = (case.tensor(f"in.classifier_t_{part}") for part in ("weight", "bias"))
    config = srrl.SRRL.Config(
        **task_settings(case),
        feature_weight=1.0 if official else case.value("hp.kd_weight"),
        regression_weight=case.value("hp.weight") if official else case.value("hp.kd_weight"),
        connect="map" if official else "pooled",
    )
    num_classes = logits.shape[1]
    student_net = net_of([ours], num_classes=num_classes) if official else net_of(width=ours.shape[1])
    teacher_net = net_of(width=goal.shape[1], num_classes=num_classes)
    method = srrl.SRRL(config, stub_setup(student_net, teacher_net)).to(case.dtype)
    load_weights(case, method, added)
    student = (
        Outputs("student", logits=logits, stages=(ours,))
        if official
        else Outputs("student", logits=logits, penultimate=ours)
    )
    teacher = Outputs("teacher", logits=teacher_logits, penultimate=goal, weight=weight, bias=bias)
    terms = method.loss(student, teacher, stub_batch(targets))
    check_task(case, terms, {"logits_s": logits, key: ours} | weight_leaves(method, added))
    state = {
        stored + key.removeprefix(own): value
        for own, stored in added.items()
        for key, value in method.state_dict().items()
    }
    check_state(case, "buf_after1.", state)

    features = method.connected(student)
    through = srrl.logits_by(features, weight, bias)
    case.check("out.logits_via_teacher", through)
    if official:
        case.check("out.transferred", torch.relu(method.connector(ours)))
        case.check("out.statistics", srrl.feature_loss(features, goal))
        case.check("out.softmax_regression", srrl.regression_loss(through, teacher_logits))
    else:
        case.check("out.transferred", features)
        case.check("out.feature_mse", srrl.feature_loss(features, goal))
        case.check("out.logit_mse", srrl.regression_loss(through, teacher_logits))


def test_srrl_reads_no_map_of_the_teacher() -> None:
    """Its features and logits are all that a cache has to keep."""
    assert srrl.SRRL.all_reads(srrl.SRRL.Config()).teacher == {"logits", "penultimate"}
    with pytest.raises(ValueError, match="pooled"):
        srrl.SRRL(srrl.SRRL.Config(connect="map"), stub_setup(stub_net(), stub_net()))


# --- ICKD ---

ICKD_NAMES = {"embed.0.": "embed_s.conv2d.", "embed.1.": "embed_s.l2norm."}


@pytest.mark.parametrize("name", names("ickd"))
def test_ickd(name: str) -> None:
    case = load("ickd", name)
    logits, teacher_logits, targets = sides(case)
    ours, theirs = case.tensor("in.feat_s", grad=True), case.tensor("in.feat_t")
    config = ickd.ICKD.Config(**task_settings(case), ickd_weight=own_weight(case))
    method = ickd.ICKD(config, stub_setup(net_of([ours]), net_of([theirs]))).to(case.dtype)
    load_weights(case, method, ICKD_NAMES)
    terms = method.loss(
        Outputs("student", logits=logits, stages=(ours,)),
        Outputs("teacher", logits=teacher_logits, stages=(theirs,)),
        stub_batch(targets),
    )
    check_task(case, terms, {"logits_s": logits, "feat_s": ours} | weight_leaves(method, ICKD_NAMES))
    state = {}
    for key, value in method.state_dict().items():
        own = key[: len("embed.0.")]
        state[ICKD_NAMES[own] + key.removeprefix(own)] = value
    check_state(case, "buf_after1.", state)
    embedded = method.embed(ours)
    case.check("out.embedded_s", embedded)
    case.check("out.ickd", ickd.ickd_loss(embedded, theirs))


def test_ickd_ignores_scale_and_the_order_of_positions() -> None:
    maps, goal = (torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(i)).double() for i in (0, 1))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    moved = maps.flatten(2)[:, :, order].view_as(maps)
    torch.testing.assert_close(ickd.ickd_loss(3 * moved, goal), ickd.ickd_loss(maps, goal))
    assert ickd.ickd_loss(maps, maps.clone()) == 0


# --- standardised logits ---


@pytest.mark.parametrize("name", names("lskd"))
def test_standardised_logits(name: str) -> None:
    """KD and DKD with the switch; the cross entropy keeps the raw logits."""
    case = load("lskd", name)
    logits, teacher, targets = sides(case)
    on = bool(case.value("hp.logit_standardization"))
    shared: dict[str, Any] = {
        "ce_weight": case.value("hp.ce_weight"),
        "temperature": case.value("hp.T"),
        "standardize": on,
    }
    scores = kd.standardized(logits), kd.standardized(teacher)
    if name.startswith("dkd"):
        factors = {key: case.value(f"hp.{key}") for key in ("alpha", "beta")}
        config = dkd.DKD.Config(**shared, **factors, warmup=case.value("hp.warmup_epochs") / 240)
        tckd, nckd = (loss(*scores, targets, config.temperature) for loss in (dkd.tckd_loss, dkd.nckd_loss))
        case.check("out.tckd", tckd)
        case.check("out.nckd", nckd)
        case.check("out.dkd", config.alpha * tckd + config.beta * nckd)
        check_logit_method(case, dkd.DKD, config, logits, teacher, targets, epoch=int(case.value("hp.epoch")))
        return
    if on:
        case.check("out.z_s", scores[0])
        case.check("out.z_t", scores[1])
    else:
        scores = logits, teacher
    case.check("out.kd", kd.kl_per_image(*scores, case.value("hp.T")).mean())
    config = kd.KD.Config(**shared, kd_weight=case.value("hp.kd_weight"))
    terms = check_logit_method(case, kd.KD, config, logits, teacher, targets)
    case.check("out.kd", terms["kd"] / config.kd_weight)


def test_standardised_logits_have_no_shift_and_no_scale() -> None:
    logits = random_logits(0)
    scores = kd.standardized(logits)
    torch.testing.assert_close(kd.standardized(5 * logits - 3), scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scores.std(dim=1), torch.ones(6).double())
    ties = torch.zeros(2, 7, requires_grad=True)
    (gradient,) = torch.autograd.grad(kd.standardized(ties).square().sum(), ties)
    assert gradient.isfinite().all()
    assert kd.standardized(logits.bfloat16()).dtype == torch.float32


def test_a_switch_that_is_off_leaves_cells_as_they_were() -> None:
    """A later field enters the identity only where it is not at its default."""
    for kind in (kd.KD, dkd.DKD):
        assert "standardize" not in deciding(kind.Config())
        assert deciding(kind.Config(standardize=True)) == deciding(kind.Config()) | {"standardize": True}
    pair = {"dataset": "cifar100", "teacher": "resnet56", "student": "resnet20"}
    off, on = (resolve_settings("kd", **pair, chosen={"standardize": value}) for value in (False, True))
    assert off.chosen == {}
    assert off.values() == resolve_settings("kd", **pair).values()
    assert on.chosen == {"standardize": True}


# --- all ---


def random_logits(seed: int) -> Tensor:
    return 3 * torch.randn(6, 7, generator=torch.Generator().manual_seed(seed)).double()


def random_outputs(owner: str, *shapes: tuple[int, int, int], rows: int = 3) -> Outputs:
    generator = torch.Generator().manual_seed(len(owner))
    maps = tuple(torch.randn(rows, *shape, generator=generator) for shape in shapes)
    width = 8
    return Outputs(
        owner,
        logits=torch.randn(rows, 10, generator=generator),
        penultimate=torch.randn(rows, width, generator=generator),
        stages=maps,
        preact=maps,
        weight=torch.randn(10, width, generator=generator),
        bias=torch.zeros(10),
    )


def batch_of(rows: int) -> Batch:
    return stub_batch(torch.arange(rows))


FEATURES: list[type[Method]] = [fitnet.FitNet, vid.VID, ofd.OFD, srrl.SRRL, ickd.ICKD]


@pytest.mark.parametrize("kind", [dist.DIST, nkd.NKD, *FEATURES])
@pytest.mark.parametrize("size", [4, 1])
def test_one_image_trains_unless_a_batch_norm_sees_one_value(kind: type[Method], size: int) -> None:
    shapes = [(4, 2 * size, 2 * size), (6, size, size)]
    net = stub_net(shapes=shapes)
    method = kind(kind.Config(), stub_setup(net, net))
    sides = random_outputs("student", *shapes, rows=1), random_outputs("teacher", *shapes, rows=1)
    norms = any(isinstance(module, nn.BatchNorm2d) for module in method.modules())
    if norms and (size == 1 or kind is srrl.SRRL):
        assert method.min_images == 2
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            method.loss(*sides, batch_of(1))
        method.eval()
    else:
        assert method.min_images == 1
    assert total(method.loss(*sides, batch_of(1))).isfinite()


@pytest.mark.parametrize("kind", [kind for kind in FEATURES if kind is not srrl.SRRL])
def test_networks_that_show_no_maps_are_refused(kind: type[Method]) -> None:
    deep = stub_net(shapes=[(4, 8, 8), (6, 4, 4)])
    for nets in ((stub_net(), deep), (deep, stub_net())):
        with pytest.raises(ValueError, match=r"choose another network|choose a teacher"):
            kind(kind.Config(), stub_setup(*nets))


@pytest.mark.parametrize("kind", [fitnet.FitNet, dist.DIST, nkd.NKD, vid.VID, ofd.OFD, srrl.SRRL, ickd.ICKD])
def test_the_cache_keeps_what_is_read(kind: type[Method]) -> None:
    """The logits are needed where the method itself or KD's divergence beside it reads them."""
    reads_logits = kind in (dist.DIST, nkd.NKD, srrl.SRRL)
    assert ("logits" in kind.all_reads(kind.Config()).teacher) is reads_logits
    with_kd = kind.all_reads(kind.Config(kd_weight=1.0))
    assert with_kd.teacher == kind.READS.teacher | {"logits"}
    assert with_kd.student == kind.READS.student | {"logits"}
