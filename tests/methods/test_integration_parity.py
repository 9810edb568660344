"""Whole networks with a method, one step: losses and every parameter's gradient against the stored values.

Weights and images follow the formula in parity/README.md; everything is computed in float64.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from parity_files import Case, fill_by_formula, formula, formula_images, load, names
from stub_nets import stub_batch
from torch import Tensor, nn

from kdbench.method import Method, Setup
from kdbench.methods import at, crd, dkd, kd, nst, ofd, pckd, pkt, reviewkd, rkd, sp
from kdbench.models import build_backbone
from kdbench.net import Net, Outputs

pytestmark = pytest.mark.once

NUM_DATA = 200


def formula_net(case: Case, role: str, name: str) -> Net:
    backbone = build_backbone(name, int(case.value("hp.num_classes")), (32, 32))
    k0, scale = int(case.value(f"hp.{role}_k0")), case.value(f"hp.bn_scale_{role}")
    backbone.load_state_dict(fill_by_formula(backbone.state_dict(), k0, scale))
    net = Net(name, backbone, mean=(0.0,) * 3, std=(1.0,) * 3, image_size=(32, 32)).double()
    # mdistiller's OFD leaves the teacher in training mode; here only the trainer decides, and it never does that.
    return net.train(role == "student" or "/md_OFD_" in case.name)


def fill_added(case: Case, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Fill a method's modules, in the reference's order; return their parameters by the reference's names."""
    states = [{f"{prefix}.{key}": value for key, value in m.state_dict().items()} for prefix, m in modules.items()]
    order = [key for state in states for key in state]
    filled = fill_by_formula({k: v for s in states for k, v in s.items()}, int(case.value("hp.aux_k0")))
    assert list(filled) == order
    found = {}
    for prefix, module in modules.items():
        module.load_state_dict({key: filled[f"{prefix}.{key}"] for key in module.state_dict()})
        found |= {f"{prefix}.{key}": parameter for key, parameter in module.named_parameters()}
    return found


def build(case: Case, setup: Setup) -> tuple[Method, dict[str, Tensor]]:
    """Build the file's method in the reference's default setting, with its parameters by the reference's names."""
    label = case.name.split("/")[1]
    if label.startswith("pckd_"):
        hp = {name: case.value(f"hp.{name}") for name in ("alpha", "beta", "delta", "ff", "contrast_temperature")}
        hp |= {
            "temperature": case.value("hp.kd_T"),
            "base_temperature": case.value("hp.contrast_base_temperature"),
        }
        preview = pckd.PCKD(pckd.PCKD.Config(**hp), setup)
        added = {"embed_s.linear": preview.student_embed, "embed_t.linear": preview.teacher_embed}
        return preview.double(), fill_added(case, added | {"align.mlp.net": preview.align})
    name = label.split("_")[1]
    if name in ("ReviewKD", "OFD"):
        kind: type[Method] = reviewkd.ReviewKD if name == "ReviewKD" else ofd.OFD
        method, prefix = kind(kind.Config(), setup), "abfs" if name == "ReviewKD" else "connectors"
        return method.double(), fill_added(case, {prefix: method.get_submodule(prefix)})
    if name == "CRD":
        config = crd.CRD.Config(feat_dim=int(case.value("hp.feat_dim")), num_negatives=int(case.value("hp.K")))
        contrast = crd.CRD(config, setup).double()
        for k, bank in ((9000, contrast.student_bank), (9001, contrast.teacher_bank)):
            values = formula(np.arange(bank.numel()), k) / math.sqrt(config.feat_dim / 3)
            bank.copy_(torch.from_numpy(values.astype(np.float32)).view_as(bank))
        added = {"embed_s.linear": contrast.student_embed, "embed_t.linear": contrast.teacher_embed}
        return contrast, fill_added(case, added)
    simple: dict[str, type[Method]] = {"KD": kd.KD, "DKD": dkd.DKD, "AT": at.AT, "SP": sp.SP, "PKT": pkt.PKT}
    simple |= {"RKD": rkd.RKD, "NST": nst.NST}
    return simple[name](simple[name].Config(), setup).double(), {}


def negatives(targets: Tensor, *_: object) -> Tensor:
    """Stand in for drawn negatives: the files' formula."""
    row, column = torch.arange(len(targets))[:, None], torch.arange(1, 65)
    return (31 * row + 17 * column + 5) % NUM_DATA


def view_major(rows: Tensor, views: int) -> Tensor:
    return rows.view(-1, views, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize("name", names("integration"))
def test_one_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = load("integration", name)
    match = re.fullmatch(r"(?:md_[A-Za-z]+|pckd)_(.+)_from_(.+?)(?:_epoch\d+)?", name)
    assert match
    student, teacher = formula_net(case, "student", match[1]), formula_net(case, "teacher", match[2])
    size, num_classes = int(case.value("hp.batch")), int(case.value("hp.num_classes"))
    labels = torch.arange(NUM_DATA) % num_classes
    setup = Setup(student=student, teacher=teacher, labels=labels, epochs=240, steps_per_epoch=1)
    torch.manual_seed(0)
    method, added = build(case, setup)
    monkeypatch.setattr(crd, "draw_negatives", negatives)

    views = method.views(method.config).num_views
    images = view_major(formula_images((size * views, 3, 32, 32), int(case.value("hp.input_k"))), views).double()
    targets = torch.arange(size) % num_classes
    with torch.no_grad():
        theirs: Outputs = teacher(images, method.reads(method.config, "training").teacher, "teacher")
    ours: Outputs = student(images, method.reads(method.config, "training").student, "student")
    terms = method.loss(ours, theirs, stub_batch(targets, epoch=int(case.value("hp.epoch"))))

    total = torch.stack(list(terms.values())).sum()
    case.check("out.total", total)
    if name.startswith("pckd_"):
        check_preview(case, method, terms, ours, targets)
    else:
        case.check("out.weighted_ce", terms["ce"])
        case.check("out.weighted_kd", total - terms["ce"])
    if isinstance(method, crd.CRD):
        case.check("buf_after1.Z_v1", method.student_log_z.exp())
        case.check("buf_after1.Z_v2", method.teacher_log_z.exp())

    if isinstance(method, ofd.OFD):
        for key in (key for key in case.arrays if key.startswith("out.margin.")):
            case.check(key, method.get_buffer(key.removeprefix("out.").replace(".", "")).flatten())

    total.backward()
    parameters = {f"student.{key}": value for key, value in student.backbone.named_parameters()} | added
    stored = {key.removeprefix("grad_l2.") for key in case.arrays if key.startswith("grad_l2.")}
    assert stored == set(parameters)
    for key, parameter in parameters.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        case.check(f"grad_l2.{key}", gradient.norm())
        case.check(f"grad_dot_w.{key}", (gradient * parameter).sum())


def check_preview(case: Case, method: Method, terms: dict[str, Tensor], ours: Outputs, targets: Tensor) -> None:
    config = method.config
    losses = nn.functional.cross_entropy(ours.logits[: len(targets)], targets, reduction="none")
    threshold = pckd.preview_threshold(config.preview_base, case.value("hp.epoch") / 240)
    case.check("out.difficulty", losses / losses.mean())
    case.check("out.preview_weight", pckd.preview_weights(losses, threshold))
    case.check("out.ce", terms["ce"])
    case.check("out.kl_previewed", terms["kd"] / config.delta)
    case.check("out.contrast_previewed", terms["contrast"] / config.beta)
    case.check("out.category_align", terms.get("centre", 0.0) / config.alpha)
    case.check("out.feature_align", terms["feature"] / config.ff)
