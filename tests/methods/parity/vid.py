"""VID; mdistiller never trains the scales, but its files hold their gradients all the same."""

from __future__ import annotations

import pytest
import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import nn

from kdbench.methods import vid
from kdbench.net import Outputs
from parity._wiring import (
    Values,
    levels,
    load_weights,
    logit_sides,
    method_weight,
    net_of,
    task,
    task_settings,
    weight_leaves,
)


def names_of(case: Case) -> dict[str, str]:
    """Our names of a stage's parameters and the reference's."""
    if case.name.startswith("vid/md"):
        return {name: name for i in range(3) for name in (f"regressors.{i}.", f"log_scales.{i}")}
    return {f"regressors.{i}.": f"vid.{i}.regressor." for i in range(3)} | {
        f"log_scales.{i}": f"vid.{i}.log_scale" for i in range(3)
    }


def computed(case: Case) -> Values:
    logits, teacher_logits, targets = logit_sides(case)
    ours, theirs = levels(case, "feats_s", grad=True), levels(case, "feats_t")
    config = vid.VID.Config(
        **task_settings(case),
        vid_weight=method_weight(case),
        initial_variance=case.value("hp.init_pred_var"),
        epsilon=case.value("hp.eps"),
    )
    nets = [net_of(list(maps.values())) for maps in (ours, theirs)]
    method = vid.VID(config, stub_setup(nets[0], nets[1])).to(case.dtype)
    if "hp.log_scale_initial" in case.arrays:
        assert method.log_scales[0][0].item() == pytest.approx(case.value("hp.log_scale_initial"), rel=1e-6)
    load_weights(case, method, names_of(case))
    terms = method.loss(
        Outputs("student", logits=logits, stages=tuple(ours.values())),
        Outputs("teacher", logits=teacher_logits, stages=tuple(theirs.values())),
        stub_batch(targets),
    )
    yield from task(case, terms, {"logits_s": logits} | ours | weight_leaves(method, names_of(case)))
    losses = []
    for i, (maps, whole) in enumerate(zip(ours.values(), theirs.values(), strict=True)):
        mean = method.regressors[i](maps)
        goal = nn.functional.adaptive_avg_pool2d(whole, mean.shape[2:])
        losses.append(vid.vid_loss(mean, method.log_scales[i], goal, config.epsilon))
    yield "out.vid_per_stage", torch.stack(losses)
