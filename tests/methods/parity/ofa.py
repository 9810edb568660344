"""OFA; where a file has a power for each exit, the terms are those of the pure function."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import ofa
from kdbench.net import Outputs
from parity._wiring import (
    Values,
    cross_entropy,
    gradients,
    load_weights,
    logit_sides,
    net_of,
    state,
    total,
    weight_leaves,
)


def computed(case: Case) -> Values:
    logits, teacher, targets = logit_sides(case)
    maps = {
        f"feats_s.{i}": case.tensor(f"in.feats_s.{i}", grad=True) for i in range(4) if f"in.feats_s.{i}" in case.arrays
    }
    stages, powers = case.arrays["hp.stages"].tolist(), case.arrays["hp.eps"].tolist()
    config = ofa.OFA.Config(
        ce_weight=case.value("hp.gt_weight"),
        kd_weight=case.value("hp.kd_weight"),
        exit_weight=case.value("hp.ofa_weight") if stages else 0.0,
        num_exits=len(stages) or 1,
        power=powers[-1],
        temperature=case.value("hp.T"),
    )
    widths = [int(case.value(f"hp.feature_dim_{side}")) if stages else 8 for side in ("s", "t")]
    student = net_of(list(maps.values()), width=widths[0], num_classes=logits.shape[1])
    method = ofa.OFA(config, stub_setup(student, net_of(width=widths[1]))).to(case.dtype)
    # Ours lack the modules of the mean that the files count, and group a block's layers under its number alone.
    names = {}
    for number, stage in enumerate(stages):
        blocks = max(4 - stage, 1)
        ours, theirs = f"exits.{number}.", f"projector.{stage}."
        names |= {f"{ours}{block}.": f"{theirs}{block}." + ("op." if stage < 4 else "") for block in range(blocks)}
        names[f"{ours}{blocks + 2}."] = f"{theirs}{blocks + 2}."
    load_weights(case, method, names)

    exits = list(zip(stages, method.exits, [maps[f"feats_s.{stage - 1}"] for stage in stages], strict=True))
    if len(set(powers)) == 1:
        outputs = Outputs("student", logits=logits, stages=tuple(maps.values()))
        terms = method.loss(outputs, Outputs("teacher", logits=teacher), stub_batch(targets))
    else:
        losses = [
            ofa.ofa_loss(leave(each), teacher, targets, power, config.temperature)
            for (_, leave, each), power in zip(exits, powers[:-1], strict=True)
        ]
        terms = {"ce": cross_entropy(logits, targets).mean(), "exits": torch.stack(losses).sum()}
        terms["kd"] = ofa.ofa_loss(logits, teacher, targets, powers[-1], config.temperature)
    yield "out.ce", terms["ce"]
    yield "out.ofa_logits", terms["kd"]
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    yield from gradients({"logits_s": logits} | maps | weight_leaves(method, names))
    yield from state(method, names)
    padded = powers * (1 + len(stages)) if len(powers) == 1 else powers
    for (stage, leave, each), power in zip(exits, padded, strict=False):
        exit_logits = leave(each)
        yield f"out.exit_logits.{stage}", exit_logits
        yield f"out.ofa_exit.{stage}", ofa.ofa_loss(exit_logits, teacher, targets, power, config.temperature)
