"""SemCKD; ``net_*`` hold whole networks, whose weights are defined by the formula."""

from __future__ import annotations

import torch
from parity_files import Case, fill_by_formula
from stub_nets import stub_batch

from kdbench.method import Setup
from kdbench.methods import semckd
from kdbench.net import Net, Outputs
from parity._networks import formula_net, images_of, names_of, summed_gradients
from parity._wiring import (
    Sides,
    Values,
    cross_entropy,
    gradients,
    kl_per_image,
    load_weights,
    state,
    stored_name,
    task_settings,
    total,
    weight_leaves,
)


def built(case: Case, student: Net, teacher: Net, batch_size: int) -> tuple[semckd.SemCKD, dict[str, str]]:
    """The file's method, and the stored names of its parts."""
    config = semckd.SemCKD.Config(**task_settings(case), semckd_weight=case.value("hp.kd_weight"))
    labels = torch.arange(40) % student.num_classes
    setup = Setup(student=student, teacher=teacher, labels=labels, epochs=240, steps_per_epoch=1, group_size=batch_size)
    names = {
        f"{ours}.{stage}.{layer}.": f"self_attention.{theirs}_weight{stage}.linear{1 + layer // 2}."
        for ours, theirs, net in (("queries", "query", student), ("keys", "key", teacher))
        for stage in range(len(net.shapes))
        for layer in (0, 2)
    }
    for i in range(len(student.shapes)):
        for j in range(len(teacher.shapes)):
            names[f"regressors.{i * len(teacher.shapes) + j}."] = f"self_attention.regressor{i}{j}.regressor."
    return semckd.SemCKD(config, setup).to(case.dtype), names


def of_networks(case: Case) -> Values:
    student, teacher = (
        formula_net(case, role, name) for role, name in zip(("student", "teacher"), names_of(case), strict=True)
    )
    images = images_of(case)
    method, names = built(case, student, teacher, len(images))
    entries = method.state_dict()
    order = [key for part in ("keys", "queries", "regressors") for key in entries if key.startswith(part)]
    method.load_state_dict(fill_by_formula({key: entries[key] for key in order}, int(case.value("hp.aux_k0"))))
    reads = method.reads(method.config, "training")
    with torch.no_grad():
        theirs: Outputs = teacher(images, reads.teacher, "teacher")
    ours: Outputs = student(images, reads.student, "student")
    yield "out.logits_s", ours.logits
    yield from terms_of(method, ours, theirs, torch.arange(len(images)) % student.num_classes)
    parameters = {stored_name(key, names): value for key, value in method.named_parameters()}
    yield from summed_gradients({f"student.{key}": p for key, p in student.backbone.named_parameters()} | parameters)


def terms_of(method: semckd.SemCKD, ours: Outputs, theirs: Outputs, targets: torch.Tensor) -> Values:
    terms = method.loss(ours, theirs, stub_batch(targets))
    assert isinstance(terms, dict)
    yield "out.ce", cross_entropy(ours.logits, targets).mean()
    yield "out.kl", kl_per_image(ours.logits, theirs.logits, method.config.kd_temperature).mean()
    yield "out.semckd", terms["semckd"] / method.config.semckd_weight
    yield "out.attention", method.attention(ours, theirs)
    loss = total(terms)
    yield "out.total", loss
    loss.backward()


def computed(case: Case) -> Values:
    if case.file.startswith("net_"):
        yield from of_networks(case)
        return
    sides, targets = Sides(case), case.tensor("in.target")
    method, names = built(case, *sides.nets, len(targets))
    load_weights(case, method, names)
    yield from terms_of(method, *sides.outputs, targets)
    yield from gradients(sides.leaves | weight_leaves(method, names))
    yield from state(method, names)
    yield "out.pair_mse", method.errors(*sides.outputs)
