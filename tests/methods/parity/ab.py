"""AB: pre-training alone."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import ab
from kdbench.net import Outputs
from parity._wiring import Values, gradients, levels, load_weights, net_of, state, total, weight_leaves


def computed(case: Case) -> Values:
    ours, theirs = levels(case, "preact_feats_s", grad=True), levels(case, "preact_feats_t")
    config = ab.AB.Config(ab_weight=case.value("hp.scale"), margin=case.value("hp.margin"))
    assert config == ab.AB.Config()
    student, teacher = (net_of(list(maps.values())) for maps in (ours, theirs))
    method = ab.AB(config, stub_setup(student, teacher)).to(case.dtype)
    load_weights(case, method)
    both = Outputs("student", preact=tuple(ours.values())), Outputs("teacher", preact=tuple(theirs.values()))
    loss = total(method.pretrain(student).loss(*both, stub_batch(torch.arange(5))))
    yield "out.total", loss
    loss.backward()
    yield from gradients(ours | weight_leaves(method))
    yield from state(method)
    yield "out.ab_per_stage", method.boundary_losses(*both)
    for i, (connector, maps, goal) in enumerate(zip(method.connectors, ours.values(), theirs.values(), strict=True)):
        connected = connector(maps)
        yield f"out.connected.{i}", connected
        factor = case.tensor("hp.stage_weights")[i] * case.value("hp.scale")
        loss, stored = ab.boundary_loss(connected, goal, config.margin), case.tensor("out.ab_per_stage")[i]
        torch.testing.assert_close(factor * loss, stored, rtol=1e-9, atol=0)
