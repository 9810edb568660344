"""SRRL; the authors' teacher features are the spatial means of its map, its penultimate features."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import srrl
from kdbench.net import Outputs
from parity._wiring import (
    Values,
    load_weights,
    logit_sides,
    net_of,
    state,
    task,
    task_settings,
    weight_leaves,
)


def computed(case: Case) -> Values:
    official = case.name.startswith("srrl/official")
    names = {"connector.": "connector.Connectors." if official else "srrl.transfer."}
    logits, teacher_logits, targets = logit_sides(case)
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
    load_weights(case, method, names)
    if official:
        student = Outputs("student", logits=logits, stages=(ours,))
    else:
        student = Outputs("student", logits=logits, penultimate=ours)
    teacher = Outputs("teacher", logits=teacher_logits, penultimate=goal, weight=weight, bias=bias)
    terms = method.loss(student, teacher, stub_batch(targets))
    yield from task(case, terms, {"logits_s": logits, key: ours} | weight_leaves(method, names))
    yield from state(method, names)

    features = method.connected(student)
    through = srrl.logits_by(features, weight, bias)
    yield "out.logits_via_teacher", through
    yield "out.transferred", torch.relu(method.connector(ours)) if official else features
    feature_loss, regression_loss = srrl.squared_error(features, goal), srrl.squared_error(through, teacher_logits)
    yield "out.statistics" if official else "out.feature_mse", feature_loss
    yield "out.softmax_regression" if official else "out.logit_mse", regression_loss
