"""OFD; the original's term is summed over the batch, and divided by it in the trainer."""

from __future__ import annotations

from unittest import mock

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import nn

from kdbench.methods import ofd
from kdbench.net import Outputs
from parity._wiring import Values, levels, load_weights, logit_sides, net_of, state, task, task_settings, weight_leaves


def norms(case: Case) -> tuple[nn.BatchNorm2d, ...]:
    """The teacher's batch norms, from which the margins come."""
    weights, biases = (case.group(f"in.teacher_bn_{part}.").values() for part in ("weight", "bias"))
    modules = []
    for weight, bias in zip(weights, biases, strict=True):
        module = nn.BatchNorm2d(len(weight), dtype=case.dtype)
        module.load_state_dict(module.state_dict() | {"weight": weight, "bias": bias})
        modules.append(module)
    return tuple(modules)


def computed(case: Case) -> Values:
    logits, teacher_logits, targets = logit_sides(case)
    ours, theirs = levels(case, "preact_feats_s", grad=True), levels(case, "preact_feats_t")
    assert case.value("hp.kernel_size") == 1
    config = ofd.OFD.Config(**task_settings(case), ofd_weight=case.value("hp.feat_weight"))
    nets = [net_of(list(maps.values())) for maps in (ours, theirs)]
    with mock.patch.object(nets[1].backbone, "preact_norms", return_value=norms(case)):
        method = ofd.OFD(config, stub_setup(nets[0], nets[1])).to(case.dtype)
    load_weights(case, method)
    terms = method.loss(
        Outputs("student", logits=logits, preact=tuple(ours.values())),
        Outputs("teacher", logits=teacher_logits, preact=tuple(theirs.values())),
        stub_batch(targets),
    )
    yield from task(case, terms, {"logits_s": logits} | ours | weight_leaves(method))
    yield from state(method)
    distances = []
    for i, (maps, whole) in enumerate(zip(ours.values(), theirs.values(), strict=True)):
        connected, margin = method.connectors[i](maps), method.get_buffer(f"margin{i}")
        yield f"out.margin.{i}", margin[None]
        yield f"out.connected.{i}", connected
        goal = nn.functional.adaptive_avg_pool2d(whole, connected.shape[2:])
        distances.append(ofd.partial_distance(connected, goal, margin))
    summed = (torch.stack(distances) / torch.tensor([4, 2, 1])).sum()
    yield "out.ofd_summed_over_batch", summed * len(targets)
    yield "out.ofd_per_stage", torch.stack(distances)
    yield "out.ofd", summed
