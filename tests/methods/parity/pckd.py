"""PCKD."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import Tensor

from kdbench.method import Batch
from kdbench.methods import pckd
from kdbench.net import Outputs
from parity._wiring import (
    Values,
    cross_entropy,
    gradients,
    kl_per_image,
    load_weights,
    net_of,
    sample_major,
    state,
    total,
    view_major,
    weight_leaves,
)

NAMES = {"student_embed.": "embed_s.linear.", "teacher_embed.": "embed_t.linear.", "align.": "align.mlp.net."}


def settings(case: Case) -> pckd.PCKD.Config:
    return pckd.PCKD.Config(
        alpha=case.value("hp.alpha"),
        beta=case.value("hp.beta"),
        delta=case.value("hp.delta"),
        ff=case.value("hp.ff"),
        temperature=case.value("hp.kd_T"),
        contrast_temperature=case.value("hp.contrast_temperature"),
        base_temperature=case.value("hp.contrast_base_temperature"),
        preview_base=case.value("hp.preview_base"),
    )


def network_outputs(case: Case, owner: str, inputs: dict[str, Tensor]) -> Outputs:
    side, views = owner[0], int(case.value("hp.views"))
    return Outputs(
        owner,
        logits=view_major(inputs[f"logits_{side}"], views),
        penultimate=view_major(inputs[f"embed_{side}"], views),
        weight=inputs[f"classifier_{side}_weight"],
        bias=inputs[f"classifier_{side}_bias"],
    )


def schedule(case: Case) -> Values:
    losses, epochs = case.tensor("in.ce_per_sample"), case.tensor("in.epoch").tolist()
    thresholds = [pckd.preview_threshold(case.value("hp.preview_base"), epoch / 240) for epoch in epochs]
    yield "out.threshold", torch.tensor(thresholds, dtype=torch.float64)
    yield "out.preview_weight", torch.stack([pckd.preview_weights(losses, bar) for bar in thresholds])
    yield "out.difficulty", losses / losses.mean()


def preview(case: Case, config: pckd.PCKD.Config, student: Outputs, teacher: Outputs, batch: Batch) -> Values:
    """What is computed image by image from the plain views."""
    views, plain = int(case.value("hp.views")), slice(len(batch.targets))
    ce = cross_entropy(student.logits[plain], batch.targets)
    threshold = pckd.preview_threshold(config.preview_base, batch.progress)
    weights = pckd.preview_weights(ce, threshold)
    kl = kl_per_image(student.logits[plain], teacher.logits[plain], config.temperature)
    yield "out.ce_per_sample", ce
    yield "out.difficulty", ce / ce.mean()
    yield "out.threshold", threshold
    yield "out.preview_weight", weights
    yield "out.preview_weight_repeated", sample_major(weights.repeat(views), views)
    yield "out.kl_per_sample", kl / len(batch.targets)


def computed(case: Case) -> Values:
    if case.name == "pckd/preview_schedule":
        yield from schedule(case)
        return
    leaves = {
        key: case.tensor(f"in.{key}", grad=True)
        for key in ("embed_s", "logits_s", "classifier_s_weight", "classifier_s_bias")
    }
    teacher_keys = ("embed_t", "logits_t", "classifier_t_weight", "classifier_t_bias")
    inputs = leaves | {key: case.tensor(f"in.{key}") for key in teacher_keys}
    config, targets, views = settings(case), case.tensor("in.target"), int(case.value("hp.views"))
    assert case.value("hp.align_hidden") == 16 * inputs["embed_t"].shape[1]
    num_classes = leaves["logits_s"].shape[1]
    nets = [net_of(width=inputs[f"embed_{side}"].shape[1], num_classes=num_classes) for side in "st"]
    method = pckd.PCKD(config, stub_setup(nets[0], nets[1])).to(case.dtype)
    load_weights(case, method, NAMES)
    batch = stub_batch(targets, epoch=int(case.value("hp.epoch")))
    student, teacher = (network_outputs(case, owner, inputs) for owner in ("student", "teacher"))
    terms = method.loss(student, teacher, batch)
    loss = total(terms)
    yield "out.total", loss
    yield "out.ce", terms["ce"]
    yield "out.kl_previewed", terms["kd"] / config.delta
    yield "out.contrast_previewed", terms["contrast"] / config.beta
    yield "out.feature_align", terms["feature"] / config.ff
    assert bool(case.arrays["hp.category_alignment"]) == ("centre" in terms)
    yield "out.category_align", terms.get("centre", 0.0) / config.alpha
    loss.backward()
    yield from gradients(leaves | weight_leaves(method, NAMES))
    yield from state(method, NAMES)
    yield from preview(case, config, student, teacher, batch)
    anchors = torch.cat(
        [
            pckd.class_scores(method.student_embed(student.penultimate), student.weight),
            pckd.class_scores(method.teacher_embed(student.penultimate), teacher.weight),
        ]
    )
    halves = pckd.category_contrast(
        anchors, targets.repeat(2 * views), config.contrast_temperature, config.base_temperature
    ).view(2, -1)
    yield "out.contrast_per_sample", sample_major(halves.sum(dim=0), views)
