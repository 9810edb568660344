"""WKD-L, WKD-F and WKD, whose terms are those of both."""

from __future__ import annotations

from dataclasses import asdict

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import Tensor, nn

from kdbench.functional import cross_entropy
from kdbench.method import Method
from kdbench.methods import _class_distances, nkd, wkd, wkdf, wkdl
from kdbench.net import Outputs
from parity._networks import fill_added, formula_net, images_of, names_of, summed_gradients
from parity._wiring import Values, gradients, load_weights, net_of, state, total, weight_leaves

NAMES = {"": "conv_reg."}


def common(case: Case) -> dict[str, float]:
    start = case.value("hp.decay_start_epoch") / case.value("hp.epochs")
    return {"ce_weight": case.value("hp.ce_weight"), "decay_start": start}


def feature_config(case: Case) -> wkdf.WKDF.Config:
    assert case.value("hp.eps") == wkdf.EPS
    return wkdf.WKDF.Config(
        **common(case),
        feature_weight=case.value("hp.feature_weight"),
        mean_ratio=case.value("hp.mean_std_ratio"),
        grid=int(case.value("hp.spatial_grid")),
        bottleneck=bool(case.arrays.get("hp.bottleneck", False)),
    )


def logit_config(case: Case) -> wkdl.WKDL.Config:
    return wkdl.WKDL.Config(
        **common(case),
        logit_weight=case.value("hp.logit_weight"),
        temperature=case.value("hp.T"),
        sharpness=case.value("hp.sharpen"),
        regularization=case.value("hp.sinkhorn_lambda"),
        iterations=int(case.value("hp.sinkhorn_iterations")),
        distances="classifier",
    )


def computed(case: Case) -> Values:
    if case.file.startswith("net_"):
        yield from of_networks(case)
    elif case.file.startswith("cost_matrix"):
        rows = case.tensor("in.class_features")
        yield (
            "out.cost_matrix",
            _class_distances.cka_distances(lambda first: rows[first:], len(rows), held=3 * rows[0].nbytes),
        )
    else:
        yield from of_outputs(case)


def of_outputs(case: Case) -> Values:
    leaves = {key: case.tensor(f"in.{key}", grad=True) for key in ("logits_s", "feat_s") if f"in.{key}" in case.arrays}
    targets, epochs = case.tensor("in.target"), int(case.value("hp.epochs"))
    batch = stub_batch(targets, epoch=int(case.value("hp.epoch")), epochs=epochs)
    logits, teacher_logits = leaves["logits_s"], case.tensor("in.logits_t")
    maps = [leaves["feat_s"], case.tensor("in.feat_t")] if "feat_s" in leaves else []
    nets = [net_of([each] if each is not None else None, num_classes=logits.shape[1]) for each in maps or [None, None]]
    student, teacher = (
        Outputs(owner, logits=each, stages=(maps[side],) if maps else None)
        for side, (owner, each) in enumerate((("student", logits), ("teacher", teacher_logits)))
    )
    progress = batch.progress
    yield "out.ce", cross_entropy(logits, targets).mean()
    terms: dict[str, Tensor] = {}
    parameters: dict[str, Tensor] = {}
    method: Method
    if "in.cost_matrix" in case.arrays:
        config = logit_config(case)
        method = wkdl.WKDL(config, stub_setup(*nets)).to(case.dtype)
        method.get_buffer("distances").copy_(case.tensor("in.cost_matrix"))
        terms |= method.loss(student, teacher, batch)
        factor = wkdf.decay_factor(progress, config.decay_start)
        yield "out.decay_factor", factor
        yield "out.target_term", nkd.target_loss(logits, teacher_logits, targets)
        yield "out.wkd_logit", terms["transport"] / (config.logit_weight * factor)
    if maps:
        features = feature_config(case)
        method = wkdf.WKDF(features, stub_setup(*nets)).to(case.dtype)
        load_weights(case, method.connector, NAMES)
        factor = features.feature_weight * wkdf.decay_factor(progress, features.decay_start)
        yield "out.decay_factor", factor / features.feature_weight
        terms |= method.loss(student, teacher, batch)
        yield from state(method.connector, NAMES)
        yield "out.mean_loss", terms["mean"] / (factor * features.mean_ratio)
        yield "out.std_loss", terms["deviation"] / factor
        parameters = weight_leaves(method.connector, NAMES)
        yield "out.projected_s", method.projected(maps[0])
    if maps and "in.cost_matrix" in case.arrays:
        both = wkd.WKD(wkd.WKD.Config(**(asdict(features) | asdict(config))), stub_setup(*nets)).to(case.dtype)
        both.get_buffer("distances").copy_(case.tensor("in.cost_matrix"))
        load_weights(case, both.connector, NAMES)
        terms, parameters = both.loss(student, teacher, batch), weight_leaves(both.connector, NAMES)
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    yield from gradients(leaves | parameters)


def of_networks(case: Case) -> Values:
    roles = zip(("student", "teacher"), names_of(case), strict=True)
    student, teacher = (formula_net(case, role, name) for role, name in roles)
    config = feature_config(case)
    method = wkdf.WKDF(config, stub_setup(student, teacher)).double()
    added: dict[str, nn.Module] = {"conv_reg": method.connector}
    parameters = fill_added(case, added)
    images = images_of(case)
    targets = torch.arange(len(images)) % student.num_classes
    ours = student(images, {"logits", "stages"}, "student")
    with torch.no_grad():
        theirs = teacher(images, {"stages"}, "teacher")
    yield "out.logits_s", ours.logits
    yield "out.teacher_map_mean", theirs.stages[-1].mean(dim=(2, 3))
    yield "out.projected_mean", method.projected(ours.stages[-1]).mean(dim=(2, 3))
    yield "out.ce", cross_entropy(ours.logits, targets).mean()
    terms = method.loss(ours, theirs, stub_batch(targets, epoch=int(case.value("hp.epoch")), epochs=240))
    yield "out.wkd_feature", (terms["mean"] + terms["deviation"]) / config.feature_weight
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    of_student = {f"student.{key}": value for key, value in student.backbone.named_parameters()}
    yield from summed_gradients(of_student | parameters)
