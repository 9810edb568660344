"""FitNet; the stored layer 2 counts the stem as 0, so it is the second stage."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import fitnet
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

NAMES = {"regressor.": "conv_reg."}


def computed(case: Case) -> Values:
    logits, teacher_logits, targets = logit_sides(case)
    ours, theirs = case.tensor("in.feats_s.2", grad=True), case.tensor("in.feats_t.2")
    stage = int(case.value("hp.hint_layer"))
    config = fitnet.FitNet.Config(**task_settings(case), hint_weight=method_weight(case), hint_stage=stage)
    nets = [net_of([maps] * stage) for maps in (ours, theirs)]
    method = fitnet.FitNet(config, stub_setup(nets[0], nets[1])).to(case.dtype)
    load_weights(case, method, NAMES)
    unread = torch.full_like(ours, torch.nan)
    terms = method.loss(
        Outputs("student", logits=logits, stages=(unread, ours)),
        Outputs("teacher", logits=teacher_logits, stages=(unread, theirs)),
        stub_batch(targets),
    )
    yield from task(case, terms, {"logits_s": logits, "feats_s.2": ours} | weight_leaves(method, NAMES))
    yield from state(method, NAMES)
    regressed = method.regressor(ours).relu()
    yield "out.regressed", regressed
    yield "out.hint", fitnet.hint_loss(regressed, theirs)
    yield "out.hint", terms["hint"] / config.hint_weight
