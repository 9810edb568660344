"""MLLD: the whole, and from the pure functions each temperature's share of it, the unused terms too."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch.nn import functional

from kdbench.methods import mlld
from kdbench.net import Outputs
from parity._wiring import Values, gradients, net_of, total


def computed(case: Case) -> Values:
    views = [
        [case.tensor(f"in.logits_{side}_{view}", grad=side == "s") for side in "st"] for view in ("weak", "strong")
    ]
    (weak, teacher_weak), (strong, teacher_strong) = views
    standardize = bool(case.value("hp.logit_standardization"))
    config = mlld.MLLD.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kd_weight"),
        temperature=case.value("hp.T"),
        standardize=standardize,
    )
    assert standardize or config == mlld.MLLD.Config()
    net = net_of(num_classes=weak.shape[1])
    terms = mlld.MLLD(config, stub_setup(net, net)).loss(
        Outputs("student", logits=torch.cat([weak, strong])),
        Outputs("teacher", logits=torch.cat([teacher_weak, teacher_strong])),
        stub_batch(case.tensor("in.target")),
    )
    yield "out.loss_ce", terms["ce"]
    yield "out.loss_kd_weak", terms["plain"]
    yield "out.loss_kd_strong", terms["strong"]
    yield "out.loss_kd", terms["plain"] + terms["strong"]
    yield "out.loss_cc_weak", terms["class"]
    yield "out.loss_bc_weak", terms["batch"]
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    yield from gradients({"logits_s_weak": weak, "logits_s_strong": strong})

    temperatures = (config.temperature, *mlld.OTHER_TEMPERATURES)
    yield "hp.temperatures", torch.tensor(temperatures, dtype=torch.float64)
    images, classes = mlld.MLLD(mlld.MLLD.Config(masks="select"), stub_setup(net, net)).weights(teacher_weak)
    yield "out.mask", images
    yield "out.class_mask", classes
    probabilities = functional.softmax(teacher_weak, dim=1)
    yield "out.confidence", probabilities.amax(dim=1)
    yield "out.conf_thresh", mlld.median(probabilities.amax(dim=1))
    yield "out.class_confidence", probabilities.sum(dim=0)
    yield "out.class_confidence_thresh", mlld.median(probabilities.sum(dim=0))
    unused = [mlld.class_errors(*views[number < mlld.NUM_STRONG], t).sum() for number, t in enumerate(temperatures)]
    yield "out.unused_loss_cc_strong", config.kd_weight * torch.stack(unused).sum()
    unused = [mlld.image_errors(strong, teacher_strong, t).sum() for t in temperatures]
    yield "out.unused_loss_bc_strong", config.kd_weight * images.mean() * torch.stack(unused).sum()
