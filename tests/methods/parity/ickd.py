"""ICKD."""

from __future__ import annotations

from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import ickd
from kdbench.net import Outputs
from parity._wiring import (
    Values,
    load_weights,
    logit_sides,
    method_weight,
    net_of,
    state,
    task,
    task_settings,
    weight_leaves,
)

NAMES = {"embed.0.": "embed_s.conv2d.", "embed.1.": "embed_s.l2norm."}


def computed(case: Case) -> Values:
    logits, teacher_logits, targets = logit_sides(case)
    ours, theirs = case.tensor("in.feat_s", grad=True), case.tensor("in.feat_t")
    config = ickd.ICKD.Config(**task_settings(case), ickd_weight=method_weight(case))
    method = ickd.ICKD(config, stub_setup(net_of([ours]), net_of([theirs]))).to(case.dtype)
    load_weights(case, method, NAMES)
    terms = method.loss(
        Outputs("student", logits=logits, stages=(ours,)),
        Outputs("teacher", logits=teacher_logits, stages=(theirs,)),
        stub_batch(targets),
    )
    yield from task(case, terms, {"logits_s": logits, "feat_s": ours} | weight_leaves(method, NAMES))
    yield from state(method, NAMES)
    embedded = method.embed(ours)
    yield "out.embedded_s", embedded
    yield "out.ickd", ickd.ickd_loss(embedded, theirs)
