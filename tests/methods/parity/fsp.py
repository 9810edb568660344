"""FSP: pre-training alone; stage 0 is the stem."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import fsp
from kdbench.net import Outputs
from parity._wiring import Values, gradients, levels, net_of, total


def computed(case: Case) -> Values:
    ours, theirs = levels(case, "feats_s", 0, grad=True), levels(case, "feats_t", 0)
    both, nets = [], []
    for owner, maps in (("student", ours), ("teacher", theirs)):
        stem, *stages = maps.values()
        both.append(Outputs(owner, stem=stem, stages=tuple(stages)))
        nets.append(net_of(stages, stem=tuple(stem.shape[1:])))
    method = fsp.FSP(fsp.FSP.Config(), stub_setup(*nets))
    loss = total(method.pretrain(nets[0]).loss(*both, stub_batch(torch.arange(5))))
    yield "out.total", loss
    loss.backward()
    yield from gradients(ours)
    yield "out.fsp_per_pair", fsp.fsp_losses(list(ours.values()), list(theirs.values()))
    for side, maps in (("s", ours), ("t", theirs)):
        for i in range(3):
            flow = fsp.flow(maps[f"feats_{side}.{i}"], maps[f"feats_{side}.{i + 1}"])
            yield f"out.fsp_matrices_{side}.{i}", flow
