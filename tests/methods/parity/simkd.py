"""SimKD: the loss is of a network that it makes of the student."""

from __future__ import annotations

from typing import final

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import Tensor, nn

from kdbench.methods.simkd import Reusing, SimKD, bottleneck
from kdbench.net import Backbone, Features, Outputs
from parity._wiring import Values, load_weights, logit_sides, net_of, state, task, total, weight_leaves

NAMES = {"": "simkd.transfer."}


@final
class Shows(Backbone):
    """What it is given is its last map."""

    def features(self, images: Tensor, *, maps: bool) -> Features:
        return Features(images.mean(dim=(2, 3)), (images,), None, None)

    def head(self) -> nn.Linear:
        raise AssertionError


def computed(case: Case) -> Values:
    logits, _, targets = logit_sides(case)
    ours, theirs = case.tensor("in.feat_s", grad=True), case.tensor("in.feat_t")
    classifier = nn.Linear(theirs.shape[1], logits.shape[1])
    projector = bottleneck(ours.shape[1], theirs.shape[1], int(case.value("hp.factor")))
    size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
    network = Reusing(Shows(), projector, classifier, size).double()
    load_weights(case, network.projector, NAMES)
    weights = {"weight": case.tensor("in.classifier_t_weight"), "bias": case.tensor("in.classifier_t_bias")}
    network.head().load_state_dict(weights)

    features = network.features(ours, maps=True)
    projected = features.stages[-1]
    yield "out.projected_s", projected
    yield "out.aligned_t", nn.functional.adaptive_avg_pool2d(theirs, size)
    yield "out.logits_via_teacher", network.head()(features.penultimate)
    teacher = net_of([theirs], width=theirs.shape[1])
    method = SimKD(SimKD.Config(), stub_setup(teacher, teacher))
    stages = (torch.full_like(ours, torch.nan), projected)
    terms = method.loss(Outputs("student", stages=stages), Outputs("teacher", map=theirs), stub_batch(targets))
    assert not list(method.parameters())
    yield "out.simkd", terms["feature"]
    # The reference's cross entropy and divergence have weight 0, so that the student's logits have a gradient of zeros.
    values = dict(task(case, terms, {"logits_s": logits, "feat_s": ours} | weight_leaves(network.projector, NAMES)))
    yield from values.items()
    weighted = {term: case.value(f"hp.{term}_weight") * values[f"out.{term}"] for term in ("ce", "kl")}
    yield "out.total", total(weighted | {"feature": case.value("hp.kd_weight") * terms["feature"]})
    yield from state(network.projector, NAMES)
    network.eval()
    yield "out.eval_logits_after1", network.head()(network.features(ours, maps=False).penultimate)
