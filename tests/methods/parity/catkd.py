"""CAT-KD; in whole networks the classifier's weight is the reference's convolution, under a name of its own."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import Tensor

from kdbench.functional import cross_entropy
from kdbench.methods import catkd
from kdbench.net import Outputs
from parity._networks import formula_net, images_of, names_of, summed_gradients
from parity._wiring import Values, gradients, net_of, total


def settings(case: Case) -> catkd.CATKD.Config:
    stored = {key.removeprefix("hp."): case.arrays[key].item() for key in case.arrays if key.startswith("hp.")}
    assert stored.get("strategy", 0) == 0
    return catkd.CATKD.Config(
        ce_weight=0.0 if stored.get("only_cat") else float(stored["ce_weight"]),
        cat_weight=float(stored["cat_weight"]),
        resolution=stored["cam_resolution"],
        normalize=stored.get("normalize", True),
        binarize=stored.get("binarize", False),
        num_maps=stored["cams_num"] - 1 if stored.get("partial") else 0,
    )


def computed(case: Case) -> Values:
    return of_networks(case) if case.file.startswith("net_") else of_maps(case)


def results(config: catkd.CATKD.Config, terms: dict[str, Tensor], logits: Tensor, targets: Tensor) -> Values:
    yield "out.ce", cross_entropy(logits, targets).mean()
    yield "out.cat", terms["cat"] / config.cat_weight
    loss = total(terms)
    yield "out.total", loss
    loss.backward()


def of_maps(case: Case) -> Values:
    keys = ("feat_s", "feat_t", "classifier_s_weight", "classifier_t_weight")
    leaves = {key: case.tensor(f"in.{key}", grad="_s" in key) for key in keys}
    ours, theirs, weight, teacher_weight = leaves.values()
    config = settings(case)
    nets = [
        net_of([maps], width=maps.shape[1], num_classes=len(each))
        for maps, each in ((ours, weight), (theirs, teacher_weight))
    ]
    method = catkd.CATKD(config, stub_setup(*nets))
    logits = ours.mean(dim=(2, 3)) @ weight.T
    yield "out.logits_s", logits
    yield "out.logits_t", catkd.class_maps(theirs, teacher_weight).mean(dim=(2, 3))
    targets = case.tensor("in.target")
    terms = method.loss(
        Outputs("student", logits=logits, map=ours, weight=weight),
        Outputs("teacher", map=theirs, weight=teacher_weight),
        stub_batch(targets),
    )
    yield from results(config, terms, logits, targets)
    yield from gradients({key: leaf for key, leaf in leaves.items() if "_s" in key})


def of_networks(case: Case) -> Values:
    student, teacher = (
        formula_net(case, role, name) for role, name in zip(("student", "teacher"), names_of(case), strict=True)
    )
    config, setup = settings(case), stub_setup(student, teacher)
    method = catkd.CATKD(config, setup)
    wrapped = method.wrap(setup)
    images = images_of(case)
    targets = torch.arange(len(images)) % student.num_classes
    ours = wrapped(images, {"logits", "map"})
    with torch.no_grad():
        theirs = teacher(images, {"map"}, "teacher")
    yield "out.logits_s", ours.logits
    for side, outputs in (("s", ours), ("t", theirs)):
        maps = catkd.class_maps(outputs.map, outputs.weight)
        yield f"out.cam_{side}", maps.flatten(2).std(dim=2)
        yield f"out.logits_{side}", maps.mean(dim=(2, 3))
    yield from results(config, method.loss(ours, theirs, stub_batch(targets)), ours.logits, targets)
    classifier = wrapped.backbone.head().weight
    parameters = {
        "student.classifier_weight" if value is classifier else f"student.{key}": value
        for key, value in wrapped.backbone.named_parameters()
    }
    yield from summed_gradients(parameters)
