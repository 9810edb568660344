"""Whole networks with a method, one step: losses and every parameter's gradient."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import torch
from parity_files import Case, formula
from stub_nets import stub_batch, terms_of
from torch import Tensor, nn

from kdbench.method import Method, Setup
from kdbench.methods import at, crd, dkd, kd, nst, ofd, pckd, pkt, reviewkd, rkd, sp
from kdbench.net import Outputs
from parity._networks import fill_added, formula_net, images_of, names_of, summed_gradients
from parity._wiring import Values, total, view_major

NUM_DATA = 200
PLAIN: dict[str, type[Method]] = {
    "KD": kd.KD,
    "DKD": dkd.DKD,
    "AT": at.AT,
    "SP": sp.SP,
    "PKT": pkt.PKT,
    "RKD": rkd.RKD,
    "NST": nst.NST,
}
"""Methods that add no modules."""


def built(case: Case, setup: Setup) -> tuple[Method, dict[str, Tensor]]:
    """The file's method in the reference's default setting, and its parameters by the reference's names."""
    if case.file.startswith("pckd_"):
        return with_preview(case, setup)
    name = case.file.split("_")[1]
    if name == "CRD":
        return with_banks(case, setup)
    if name in ("ReviewKD", "OFD"):
        kind: type[Method] = reviewkd.ReviewKD if name == "ReviewKD" else ofd.OFD
        method, prefix = kind(kind.Config(), setup), "abfs" if name == "ReviewKD" else "connectors"
        return method.double(), fill_added(case, {prefix: method.get_submodule(prefix)})
    return PLAIN[name](PLAIN[name].Config(), setup).double(), {}


def with_preview(case: Case, setup: Setup) -> tuple[pckd.PCKD, dict[str, Tensor]]:
    config = pckd.PCKD.Config(
        **{name: case.value(f"hp.{name}") for name in ("alpha", "beta", "delta", "ff", "contrast_temperature")},
        temperature=case.value("hp.kd_T"),
        base_temperature=case.value("hp.contrast_base_temperature"),
    )
    preview = pckd.PCKD(config, setup)
    added = {"embed_s.linear": preview.student_embed, "embed_t.linear": preview.teacher_embed}
    return preview.double(), fill_added(case, added | {"align.mlp.net": preview.align})


def with_banks(case: Case, setup: Setup) -> tuple[crd.CRD, dict[str, Tensor]]:
    config = crd.CRD.Config(feat_dim=int(case.value("hp.feat_dim")), num_negatives=int(case.value("hp.K")))
    contrast = crd.CRD(config, setup).double()
    for k, bank in ((9000, contrast.student_bank), (9001, contrast.teacher_bank)):
        values = formula(np.arange(bank.numel()), k) / math.sqrt(config.feat_dim / 3)
        bank.copy_(torch.from_numpy(values.astype(np.float32)).view_as(bank))
    added = {"embed_s.linear": contrast.student_embed, "embed_t.linear": contrast.teacher_embed}
    return contrast, fill_added(case, added)


def negatives(targets: Tensor, *_: object) -> Tensor:
    """Stand in for drawn negatives: the files' formula."""
    row, column = torch.arange(len(targets))[:, None], torch.arange(1, 65)
    return (31 * row + 17 * column + 5) % NUM_DATA


def preview(case: Case, method: pckd.PCKD, terms: dict[str, Tensor], student: Outputs, targets: Tensor) -> Values:
    config = method.config
    losses = nn.functional.cross_entropy(student.logits[: len(targets)], targets, reduction="none")
    threshold = pckd.preview_threshold(config.preview_base, case.value("hp.epoch") / 240)
    yield "out.difficulty", losses / losses.mean()
    yield "out.preview_weight", pckd.preview_weights(losses, threshold)
    yield "out.ce", terms["ce"]
    yield "out.kl_previewed", terms["kd"] / config.delta
    yield "out.contrast_previewed", terms["contrast"] / config.beta
    yield "out.category_align", terms.get("centre", 0.0) / config.alpha
    yield "out.feature_align", terms["feature"] / config.ff


def computed(case: Case) -> Values:
    student_name, teacher_name = names_of(case)
    student, teacher = formula_net(case, "student", student_name), formula_net(case, "teacher", teacher_name)
    # mdistiller's OFD leaves the teacher in training mode; here only the trainer decides, and it never does that.
    teacher.train(case.file.startswith("md_OFD_"))
    size, num_classes = int(case.value("hp.batch")), int(case.value("hp.num_classes"))
    labels = torch.arange(NUM_DATA) % num_classes
    setup = Setup(student=student, teacher=teacher, labels=labels, epochs=240, steps_per_epoch=1, group_size=64)
    torch.manual_seed(0)
    method, added = built(case, setup)

    views = method.views(method.config).num_views
    images, targets = view_major(images_of(case, views), views), torch.arange(size) % num_classes
    with torch.no_grad():
        theirs: Outputs = teacher(images, method.reads(method.config, "training").teacher, "teacher")
    ours: Outputs = student(images, method.reads(method.config, "training").student, "student")
    with mock.patch.object(crd, "draw_negatives", negatives):
        result = method.loss(ours, theirs, stub_batch(targets, epoch=int(case.value("hp.epoch"))))
    terms = terms_of(result)
    if isinstance(result, tuple):
        method.remember(result[1])

    loss = total(terms)
    yield "out.total", loss
    yield "out.weighted_ce", terms["ce"]
    yield "out.weighted_kd", loss - terms["ce"]
    if isinstance(method, pckd.PCKD):
        yield from preview(case, method, terms, ours, targets)
    if isinstance(method, crd.CRD):
        yield "buf_after1.Z_v1", method.student_log_z.exp()
        yield "buf_after1.Z_v2", method.teacher_log_z.exp()
    if isinstance(method, ofd.OFD):
        for i in range(len(method.connectors)):
            yield f"out.margin.{i}", method.get_buffer(f"margin{i}").flatten()
    loss.backward()
    yield from summed_gradients({f"student.{key}": value for key, value in student.backbone.named_parameters()} | added)
