"""SSKD: values with the stored choice of rows; our own choice has as many rows, of the same ranks."""

from __future__ import annotations

from unittest import mock

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import Tensor

from kdbench.methods import sskd
from kdbench.net import Outputs
from parity._wiring import Values, gradients, load_weights, net_of, sample_major, total, view_major, weight_leaves

NAMES = {"student_head.": "student.proj_head.", "teacher_head.": "teacher.proj_head."}
UNMET = {"*/out.kept_*": "of equal ranks an unstable sort has chosen there; number and ranks of the rows are compared"}


def settings(case: Case) -> sskd.SSKD.Config:
    return sskd.SSKD.Config(
        **{f"{term}_weight": case.value(f"hp.{term}_weight") for term in ("ce", "kd", "tf", "ss")},
        **{f"{term}_temperature": case.value(f"hp.{term}_T") for term in ("kd", "tf", "ss")},
        **{f"{term}_ratio": case.value(f"hp.ratio_{term}") for term in ("tf", "ss")},
    )


def stored_rows(case: Case, term: str, scores: Tensor, goals: Tensor, ratio: float) -> Tensor:
    """The rows that the reference keeps, after a comparison of their ranks with those of the rows that we keep."""
    views = int(case.value("hp.views"))
    chosen = torch.zeros(len(goals), dtype=torch.bool)
    chosen[case.tensor(f"out.kept_{term}")] = True
    stored, ours = view_major(chosen, views - 1), sskd.kept_rows(scores, goals, ratio)
    ranks = (-scores).argsort(dim=1).eq(goals[:, None]).int().argmax(dim=1)
    assert torch.equal(ranks[ours].sort().values, ranks[stored].sort().values)
    return stored


def computed(case: Case) -> Values:
    views = int(case.value("hp.views"))
    leaves = {key: case.tensor(f"in.{key}", grad=True) for key in ("logits_s", "pooled_s")}
    inputs = leaves | {key: case.tensor(f"in.{key}") for key in ("logits_t", "pooled_t")}
    targets = case.tensor("in.target")
    student, teacher = (
        Outputs(
            owner,
            logits=view_major(inputs[f"logits_{side}"], views),
            penultimate=view_major(inputs[f"pooled_{side}"], views),
        )
        for owner, side in (("student", "s"), ("teacher", "t"))
    )
    config = settings(case)
    assert config == sskd.SSKD.Config()
    assert sskd.SSKD.views(config).num_views == views
    num_classes, num_images = student.logits.shape[1], len(targets)
    nets = [net_of(width=side.penultimate.shape[1], num_classes=num_classes) for side in (student, teacher)]
    method = sskd.SSKD(config, stub_setup(*nets)).to(case.dtype)
    load_weights(case, method, NAMES)

    similar = [
        sskd.similarities(head(side.penultimate), num_images)
        for head, side in ((method.student_head, student), (method.teacher_head, teacher))
    ]
    for side, scores in zip("st", similar, strict=True):
        yield f"out.similarity_{side}", sample_major(scores, views - 1)
    images = torch.arange(num_images).repeat(views - 1)
    assert torch.equal(sskd.own_images(similar[1]), images)
    rows = {
        config.tf_ratio: stored_rows(
            case, "tf", teacher.logits[num_images:], targets.repeat(views - 1), config.tf_ratio
        ),
        config.ss_ratio: stored_rows(case, "ss", similar[1], images, config.ss_ratio),
    }
    with mock.patch.object(sskd, "kept_rows", lambda *given: rows[given[2]]):
        terms = method.loss(student, teacher, stub_batch(targets))
    for term in ("ce", "kd", "tf", "ss"):
        yield f"out.{term}", terms[term] / case.value(f"hp.{term}_weight")
    yield "out.total", total(terms)
    total(terms).backward()
    yield from gradients(leaves | weight_leaves(method, NAMES))
