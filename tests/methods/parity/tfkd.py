"""Tf-KD, with a teacher and with a made-up one, and the label smoothing that it is compared with."""

from __future__ import annotations

from typing import Any

from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import ce, tfkd, tfreg
from kdbench.net import Outputs
from parity._wiring import Values, cross_entropy, gradients, net_of, terms_of_logits, total


def computed(case: Case) -> Values:
    student, targets = case.tensor("in.logits_s", grad=True), case.tensor("in.target")
    num_classes = student.shape[1]
    settings: dict[str, Any] = {
        ours: case.value(f"hp.{stored}")
        for ours, stored in {"alpha": "alpha", "temperature": "T", "multiplier": "multiplier"}.items()
        if f"hp.{stored}" in case.arrays
    }
    if case.file.startswith("self"):
        terms = terms_of_logits(case, tfkd.TfKD, tfkd.TfKD.Config(**settings), student)
        yield "out.soft_weighted", terms["kd"]
    else:
        method: tfreg.TfReg | ce.CE
        setup = stub_setup(net_of(num_classes=num_classes), None)
        if case.file.startswith("smooth"):
            # The stored smoothing is shared by the other classes, ours by all of them.
            smoothing = case.value("hp.smoothing") * num_classes / (num_classes - 1)
            method = ce.CE(ce.CE.Config(label_smoothing=smoothing), setup)
        else:
            correct = case.value("hp.correct_probability")
            method = tfreg.TfReg(tfreg.TfReg.Config(**settings, correct=correct), setup)
        terms = method.loss(Outputs("student", logits=student), Outputs("teacher"), stub_batch(targets))
        yield "out.soft_weighted", terms.get("virtual", 0.0)
    yield "out.ce", cross_entropy(student, targets).mean()
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    yield from gradients({"logits_s": student})
