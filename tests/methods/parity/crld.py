"""CRLD; the terms, which are before their weights, and the masks."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import crld
from kdbench.net import Outputs
from parity._wiring import Values, gradients, net_of, total


def computed(case: Case) -> Values:
    inputs = {
        f"logits_{side}_{view}": case.tensor(f"in.logits_{side}_{view}", grad=side == "s")
        for side in "st"
        for view in ("weak", "strong")
    }
    weak, strong, teacher_weak, teacher_strong = inputs.values()
    config = crld.CRLD.Config(
        ce_weight=case.value("hp.ce_weight"),
        within_weight=case.value("hp.within_view_weight"),
        cross_weight=case.value("hp.cross_view_weight"),
        plain_threshold=case.value("hp.threshold_weak"),
        strong_threshold=case.value("hp.threshold_strong"),
        temperature=case.value("hp.T"),
    )
    yield "out.mask_weak", crld.is_sure(teacher_weak, config.plain_threshold)
    yield "out.mask_strong", crld.is_sure(teacher_strong, config.strong_threshold)
    net = net_of(num_classes=weak.shape[1])
    terms = crld.CRLD(config, stub_setup(net, net)).loss(
        Outputs("student", logits=torch.cat([weak, strong])),
        Outputs("teacher", logits=torch.cat([teacher_weak, teacher_strong])),
        stub_batch(case.tensor("in.target")),
    )
    yield "out.ce_sum", terms["ce"] / config.ce_weight
    yield "out.within_view", terms["within"] / config.within_weight
    yield "out.cross_view", terms["cross"] / config.cross_weight
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    yield from gradients({key: leaf for key, leaf in inputs.items() if "_s_" in key})
