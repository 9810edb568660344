"""Every stored value of the methods' losses, gradients and state, against their pure functions and classes."""

from __future__ import annotations

import pytest
import torch
from parity_files import Case, load, names
from stub_nets import stub_batch, stub_net, stub_setup
from torch import Tensor, nn

from kdbench.functional import cross_entropy
from kdbench.method import Batch, Method
from kdbench.methods import crd, dkd, kd, pckd, reviewkd
from kdbench.net import Outputs

pytestmark = pytest.mark.once


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def check_gradients(case: Case, leaves: dict[str, Tensor], prefix: str = "grad.") -> None:
    """Every stored gradient below the prefix is met by a leaf of that name; one not in the graph has zeros."""
    stored = {key.removeprefix(prefix) for key in case.arrays if key.startswith(prefix)}
    assert stored
    for name in stored:
        leaf = leaves[name]
        case.check(prefix + name, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)


def check_state(case: Case, prefix: str, state: dict[str, Tensor]) -> None:
    """Every stored buffer below the prefix is met."""
    for key in case.arrays:
        if key.startswith(prefix):
            case.check(key, state[key.removeprefix(prefix)])


def load_weights(case: Case, module: nn.Module, names: dict[str, str]) -> None:
    """Fill a module from w.* and buf_before.* entries; ``names`` maps our prefixes to the stored ones."""
    state = module.state_dict()
    stored = case.group("w.") | case.group("buf_before.")
    for key in state:
        ours = next(prefix for prefix in sorted(names, reverse=True) if key.startswith(prefix))
        state[key] = stored.pop(names[ours] + key.removeprefix(ours))
    assert not stored, f"{case.name}: {sorted(stored)} have no place in the module"
    module.load_state_dict(state)


def weight_leaves(module: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """Parameters under the names of the stored gradients, ``w.*``."""
    found = {}
    for key, parameter in module.named_parameters():
        ours = next(prefix for prefix in sorted(names, reverse=True) if key.startswith(prefix))
        found["w." + names[ours] + key.removeprefix(ours)] = parameter
    return found


def sides(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    return case.tensor("in.logits_s", grad=True), case.tensor("in.logits_t"), case.tensor("in.target")


@pytest.mark.parametrize("name", names("kd"))
def test_kd(name: str) -> None:
    case = load("kd", name)
    student, teacher, targets = sides(case)
    config = kd.KD.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kd_weight"),
        temperature=case.value("hp.T"),
    )
    case.check("out.ce", cross_entropy(student, targets).mean())
    case.check("out.kd", kd.kl_per_image(student, teacher, config.temperature).mean())
    num_classes = student.shape[1]
    method = kd.KD(config, stub_setup(stub_net(num_classes=num_classes), stub_net(num_classes=num_classes)))
    terms = method.loss(Outputs("student", logits=student), Outputs("teacher", logits=teacher), stub_batch(targets))
    loss = total(terms)
    case.check("out.total", loss)
    loss.backward()
    check_gradients(case, {"logits_s": student})


@pytest.mark.parametrize("name", names("dkd"))
def test_dkd(name: str) -> None:
    case = load("dkd", name)
    student, teacher, targets = sides(case)
    config = dkd.DKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        alpha=case.value("hp.alpha"),
        beta=case.value("hp.beta"),
        temperature=case.value("hp.T"),
        warmup=case.value("hp.warmup_epochs") / 240,
    )
    tckd = dkd.tckd_loss(student, teacher, targets, config.temperature)
    nckd = dkd.nckd_loss(student, teacher, targets, config.temperature)
    case.check("out.ce", cross_entropy(student, targets).mean())
    case.check("out.tckd", tckd)
    case.check("out.nckd", nckd)
    case.check("out.dkd", config.alpha * tckd + config.beta * nckd)
    case.check("out.warmup_factor", dkd.warmup_factor(case.value("hp.epoch") / 240, config.warmup))
    num_classes = student.shape[1]
    method = dkd.DKD(config, stub_setup(stub_net(num_classes=num_classes), stub_net(num_classes=num_classes)))
    batch = stub_batch(targets, epoch=int(case.value("hp.epoch")))
    loss = total(method.loss(Outputs("student", logits=student), Outputs("teacher", logits=teacher), batch))
    case.check("out.total", loss)
    loss.backward()
    check_gradients(case, {"logits_s": student})


CRD_WEIGHTS = {"student_embed.": "embed_s.linear.", "teacher_embed.": "embed_t.linear."}


@pytest.mark.parametrize("name", names("crd"))
def test_crd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps, with the stored negatives in place of drawn ones.

    Z is kept as its logarithm, where the reference keeps it among K, T and the momentum in one buffer of the
    default dtype: in the float32 case the two differ by rounding, within that case's tolerance.
    """
    case = load("crd", name)
    num_data = int(case.value("hp.n_data"))
    config = crd.CRD.Config(
        ce_weight=case.value("hp.ce_weight"),
        crd_weight=case.value("hp.crd_weight"),
        kd_weight=case.value("hp.kl_weight"),
        kd_temperature=case.value("hp.kl_T"),
        feat_dim=int(case.value("hp.feat_dim")),
        num_negatives=int(case.value("hp.K")),
        temperature=case.value("hp.T"),
        momentum=case.value("hp.momentum"),
        epsilon=case.value("hp.eps"),
    )
    nets = [stub_net(width=case.arrays[f"in.s1.f_{side}"].shape[1]) for side in "st"]
    method = crd.CRD(config, stub_setup(nets[0], nets[1], torch.arange(num_data) % 10)).to(case.dtype)
    assert case.value("buf_before.Z_v1") == case.value("buf_before.Z_v2") == -1
    state = {key: value for key, value in method.state_dict().items() if key.endswith("_log_z")}
    for key, value in method.state_dict().items():
        for ours, theirs in CRD_WEIGHTS.items():
            if key.startswith(ours):
                state[key] = case.tensor("w." + theirs + key.removeprefix(ours))
        if key.endswith("_bank"):
            state[key] = case.tensor("buf_before.memory_v1" if "student" in key else "buf_before.memory_v2")
            assert state[key].shape == value.shape
    method.load_state_dict(state)

    for step in range(1, 4):
        at = f"s{step}."
        columns = case.tensor(f"in.{at}contrast_index")
        index = case.tensor(f"in.{at}index")
        assert torch.equal(columns[:, 0], index)
        monkeypatch.setattr(crd, "draw_negatives", lambda *_, columns=columns: columns[:, 1:])
        f_s, logits_s = (case.tensor(f"in.{at}{key}", grad=True) for key in ("f_s", "logits_s"))
        f_t, logits_t, targets = (case.tensor(f"in.{at}{key}") for key in ("f_t", "logits_t", "target"))
        banks = {"v1": method.teacher_bank.clone(), "v2": method.student_bank.clone()}
        method.zero_grad()
        terms = method.loss(
            Outputs("student", logits=logits_s, penultimate=f_s),
            Outputs("teacher", logits=logits_t, penultimate=f_t),
            stub_batch(targets, index=index),
        )
        loss = total(terms)
        case.check(f"out.{at}total", loss)
        loss.backward()
        leaves = {"f_s": f_s, "logits_s": logits_s} | weight_leaves(method, CRD_WEIGHTS)
        check_gradients(case, leaves, f"grad.{at}")

        case.check(f"out.{at}ce", cross_entropy(logits_s, targets).mean())
        case.check(f"out.{at}kl", kd.kl_per_image(logits_s, logits_t, config.kd_temperature).mean())
        case.check(f"out.{at}crd", terms["crd"] / config.crd_weight)
        embeddings = {
            "v1": nn.functional.normalize(method.student_embed(f_s), dim=1),
            "v2": nn.functional.normalize(method.teacher_embed(f_t), dim=1),
        }
        log_zs = {"v1": method.student_log_z, "v2": method.teacher_log_z}
        for number, side in (("v1", "s"), ("v2", "t")):
            case.check(f"out.{at}embed_{side}", embeddings[number])
            scores = crd.contrast_scores(embeddings[number], banks[number], columns, config.temperature)
            log_ratios = scores - log_zs[number]
            case.check(f"out.{at}ratio_{number}", log_ratios.exp())
            case.check(f"out.{at}loss_{side}", crd.nce_loss(log_ratios, num_data, config.epsilon))
        if step != 2:
            state = {
                "memory_v1": method.student_bank,
                "memory_v2": method.teacher_bank,
                "Z_v1": method.student_log_z.exp(),
                "Z_v2": method.teacher_log_z.exp(),
            }
            check_state(case, f"buf_after{step}.", state)


def review_levels(case: Case, prefix: str, pooled: str, *, grad: bool) -> dict[str, Tensor]:
    """Stages without the stem, and the pooled embedding, by stored name."""
    count = len([key for key in case.arrays if key.startswith(f"in.{prefix}.")])
    found = {f"{prefix}.{i}": case.tensor(f"in.{prefix}.{i}", grad=grad) for i in range(1, count)}
    return found | {pooled: case.tensor(f"in.{pooled}", grad=grad)}


def check_each(case: Case, prefix: str, values: list[Tensor]) -> None:
    stored = [key for key in case.arrays if key.startswith(prefix)]
    assert len(stored) in (0, len(values))  # the original trainer's files hold no values per level
    for number in range(len(stored)):
        case.check(f"{prefix}{number}", values[number])


@pytest.mark.parametrize("name", [name for name in names("reviewkd") if name != "hcl_sizes"])
@pytest.mark.parametrize("teacher_preact", [True, False])
def test_reviewkd(name: str, teacher_preact: bool) -> None:
    """The teacher's maps are the same whether it offers them as preact or, having none, as stages.

    The stem map, whose stored gradient is zero, is no part of the seam. The original trainer counts epochs from 0
    where we count from 1, so its warm-up factor is put into the weight here.
    """
    case = load("reviewkd", name)
    student = review_levels(case, "feats_s", "pooled_s", grad=True)
    teacher = list(review_levels(case, "preact_feats_t", "pooled_t", grad=False).values())
    logits, targets = case.tensor("in.logits_s", grad=True), case.tensor("in.target")
    *student_stages, student_pooled = student.values()
    student_preact = bool(case.arrays.get("hp.student_preact", False))
    nets = [
        stub_net(width=pooled.shape[1], shapes=[tuple(maps.shape[1:]) for maps in stages], preact=preact)
        for pooled, stages, preact in (
            (student_pooled, student_stages, student_preact),
            (teacher[-1], teacher[:-1], teacher_preact),
        )
    ]
    epoch, warmup_epochs = int(case.value("hp.epoch")), case.value("hp.warmup_epochs")
    original = name.startswith("orig_")
    config = reviewkd.ReviewKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        review_weight=case.value("hp.review_weight") * (min(epoch / warmup_epochs, 1) if original else 1),
        warmup=0 if original else warmup_epochs / 240,
        student_preact=student_preact,
    )
    method = reviewkd.ReviewKD(config, stub_setup(nets[0], nets[1])).to(case.dtype)
    load_weights(case, method, {"": ""})
    parts = {"stages": tuple(student_stages)}
    if student_preact:
        parts = {"preact": parts["stages"], "stages": tuple(maps.detach() + 1 for maps in student_stages)}
    teacher_part = {"preact" if teacher_preact else "stages": tuple(teacher[:-1])}
    terms = method.loss(
        Outputs("student", logits=logits, penultimate=student_pooled, **parts),
        Outputs("teacher", penultimate=teacher[-1], **teacher_part),
        stub_batch(targets, epoch=max(epoch, 1)),
    )
    loss = total(terms)
    case.check("out.total", loss)
    case.check("out.ce", terms["ce"] / config.ce_weight)
    if not original:
        case.check("out.review_weighted", terms["review"])
        case.check("out.warmup_factor", dkd.warmup_factor(epoch / 240, config.warmup))
    loss.backward()
    stem = {"feats_s.0": case.tensor("in.feats_s.0", grad=True)}
    leaves = student | {"logits_s": logits} | stem | weight_leaves(method, {"": ""})
    check_gradients(case, leaves)
    check_state(case, "buf_after1.", method.state_dict())

    goals = [*teacher[:-1], teacher[-1][:, :, None, None]]
    levels = [*student_stages, student_pooled[:, :, None, None]]
    fused = method.fuse(levels, [(goal.shape[2], goal.shape[3]) for goal in goals])
    hcl = [reviewkd.hcl_loss(ours, goal) for ours, goal in zip(fused, goals, strict=True)]
    check_each(case, "out.fused.", fused)
    check_each(case, "out.hcl_per_level.", hcl)
    case.check("out.hcl", torch.stack(hcl).sum())


def test_hcl_sizes() -> None:
    case = load("reviewkd", "hcl_sizes")
    fused = case.group("in.fused.", grad=True)
    losses = [reviewkd.hcl_loss(fused[key], case.tensor(f"in.feats_t.{key}")) for key in fused]
    assert len(losses) == 4
    check_each(case, "out.hcl_per_level.", losses)
    loss = torch.stack(losses).sum()
    case.check("out.total", loss)
    loss.backward()
    check_gradients(case, {f"fused.{key}": value for key, value in fused.items()})


PCKD_WEIGHTS = {
    "student_embed.": "embed_s.linear.",
    "teacher_embed.": "embed_t.linear.",
    "align.": "align.mlp.net.",
}


def view_major(rows: Tensor, views: int) -> Tensor:
    """Rows of a sample-major file in the order of ``Outputs``; keeps the graph."""
    return rows.view(-1, views, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)


def sample_major(rows: Tensor, views: int) -> Tensor:
    return rows.view(views, -1).T.flatten()


@pytest.mark.parametrize("name", [name for name in names("pckd") if name != "preview_schedule"])
def test_pckd(name: str) -> None:
    case = load("pckd", name)
    views = int(case.value("hp.views"))
    leaves = {
        key: case.tensor(f"in.{key}", grad=True)
        for key in ("embed_s", "logits_s", "classifier_s_weight", "classifier_s_bias")
    }
    weights = [case.tensor(f"in.classifier_t_{key}") for key in ("weight", "bias")]
    embed_t, logits_t, targets = (case.tensor(f"in.{key}") for key in ("embed_t", "logits_t", "target"))
    assert case.value("hp.align_hidden") == 16 * embed_t.shape[1]
    config = pckd.PCKD.Config(
        alpha=case.value("hp.alpha"),
        beta=case.value("hp.beta"),
        delta=case.value("hp.delta"),
        ff=case.value("hp.ff"),
        temperature=case.value("hp.kd_T"),
        contrast_temperature=case.value("hp.contrast_temperature"),
        base_temperature=case.value("hp.contrast_base_temperature"),
        preview_base=case.value("hp.preview_base"),
    )
    num_classes = leaves["logits_s"].shape[1]
    nets = [stub_net(width=x.shape[1], num_classes=num_classes) for x in (leaves["embed_s"], embed_t)]
    method = pckd.PCKD(config, stub_setup(nets[0], nets[1])).to(case.dtype)
    load_weights(case, method, PCKD_WEIGHTS)
    batch: Batch = stub_batch(targets, epoch=int(case.value("hp.epoch")))
    student = Outputs(
        "student",
        logits=view_major(leaves["logits_s"], views),
        penultimate=view_major(leaves["embed_s"], views),
        weight=leaves["classifier_s_weight"],
        bias=leaves["classifier_s_bias"],
    )
    teacher = Outputs(
        "teacher",
        logits=view_major(logits_t, views),
        penultimate=view_major(embed_t, views),
        weight=weights[0],
        bias=weights[1],
    )
    terms = method.loss(student, teacher, batch)
    loss = total(terms)
    case.check("out.total", loss)
    case.check("out.ce", terms["ce"])
    case.check("out.kl_previewed", terms["kd"] / config.delta)
    case.check("out.contrast_previewed", terms["contrast"] / config.beta)
    case.check("out.feature_align", terms["feature"] / config.ff)
    assert bool(case.arrays["hp.category_alignment"]) == ("centre" in terms)
    case.check("out.category_align", terms.get("centre", 0) / config.alpha)
    loss.backward()
    check_gradients(case, leaves | weight_leaves(method, PCKD_WEIGHTS))
    state = {key.replace("align.", "align.mlp.net."): value for key, value in method.state_dict().items()}
    check_state(case, "buf_after1.", state)

    plain = slice(len(targets))
    ce = cross_entropy(student.logits[plain], targets)
    threshold = pckd.preview_threshold(config.preview_base, batch.progress)
    preview = pckd.preview_weights(ce, threshold)
    kl = kd.kl_per_image(student.logits[plain], teacher.logits[plain], config.temperature)
    case.check("out.ce_per_sample", ce)
    case.check("out.difficulty", ce / ce.mean())
    case.check("out.threshold", threshold)
    case.check("out.preview_weight", preview)
    case.check("out.preview_weight_repeated", sample_major(preview.repeat(views), views))
    case.check("out.kl_per_sample", kl / len(targets))
    anchors = torch.cat(
        [
            pckd.class_scores(method.student_embed(student.penultimate), student.weight),
            pckd.class_scores(method.teacher_embed(student.penultimate), teacher.weight),
        ]
    )
    halves = pckd.category_contrast(
        anchors, targets.repeat(2 * views), config.contrast_temperature, config.base_temperature
    ).view(2, -1)
    case.check("out.contrast_per_sample", sample_major(halves.sum(dim=0), views))


def test_preview_schedule() -> None:
    case = load("pckd", "preview_schedule")
    losses, epochs = case.tensor("in.ce_per_sample"), case.tensor("in.epoch").tolist()
    thresholds = [pckd.preview_threshold(case.value("hp.preview_base"), epoch / 240) for epoch in epochs]
    case.check("out.threshold", torch.tensor(thresholds, dtype=torch.float64))
    case.check("out.preview_weight", torch.stack([pckd.preview_weights(losses, bar) for bar in thresholds]))
    case.check("out.difficulty", losses / losses.mean())


def test_methods_are_final_and_exposed() -> None:
    for module, name in ((kd, "KD"), (dkd, "DKD"), (crd, "CRD"), (reviewkd, "ReviewKD"), (pckd, "PCKD")):
        assert module.METHOD is getattr(module, name)
        assert issubclass(module.METHOD, Method)
