"""SDD over KD, DKD and NKD; the settings are named as those methods name them."""

from __future__ import annotations

import re

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import Tensor

from kdbench.functional import warmup_factor
from kdbench.methods import sddkd, sdkd, sdnkd
from kdbench.methods._regions import RegionMethod, region_logits, region_weights
from kdbench.net import Net, Outputs
from parity._networks import formula_net, images_of, names_of, summed_gradients
from parity._wiring import Values, cross_entropy, gradients, net_of, total

KINDS: dict[str, type[RegionMethod]] = {"kd": sdkd.SDKD, "dkd": sddkd.SDDKD, "nkd": sdnkd.SDNKD}


def built(case: Case, student: Net, teacher: Net) -> RegionMethod:
    kind = re.match(r"(?:net_)?(kd|dkd|nkd)_", case.file)
    assert kind
    stored = {"T": "temperature", "warmup_epochs": "warmup"} | {
        name: name for name in ("ce_weight", "kd_weight", "alpha", "beta", "gamma")
    }
    config = {ours: case.value(f"hp.{theirs}") for theirs, ours in stored.items() if f"hp.{theirs}" in case.arrays}
    if "warmup" in config:
        config["warmup"] /= 240
    finest = int(case.arrays["hp.scales"].max())
    method = KINDS[kind[1]]
    return method(method.Config(**config, finest=finest), stub_setup(student, teacher))


def results(case: Case, method: RegionMethod, ours: Outputs, theirs: Outputs, targets: Tensor) -> Values:
    yield "out.logits_s", ours.logits
    yield "out.ce", cross_entropy(ours.logits, targets).mean()
    sides = [region_logits(outputs, method.config.finest) for outputs in (ours, theirs)]
    for side, logits in zip("st", sides, strict=True):
        yield f"out.region_logits_{side}", logits.mT
    yield "out.region_weight", region_weights(sides[1], targets)
    epoch = int(case.value("hp.epoch")) if "hp.epoch" in case.arrays else 1
    terms = method.loss(ours, theirs, stub_batch(targets, epoch=epoch))
    loss = total(terms)
    yield "out.total", loss
    factor = warmup_factor(epoch / 240, method.config.warmup)
    yield "out.warmup_factor", factor
    weight = method.config.kd_weight if isinstance(method, sdkd.SDKD) else factor
    yield "out.sdd", (loss - terms["ce"]) / weight
    loss.backward()


def computed(case: Case) -> Values:
    return of_networks(case) if case.file.startswith("net_") else of_maps(case)


def of_maps(case: Case) -> Values:
    keys = [f"{key}_{side}{part}" for side in "st" for key, part in PARTS]
    leaves = {key: case.tensor(f"in.{key}", grad="_s" in key) for key in keys}
    outputs = []
    for side, owner in (("s", "student"), ("t", "teacher")):
        maps, weight, bias = (leaves[f"{key}_{side}{part}"] for key, part in PARTS)
        logits = maps.mean(dim=(2, 3)) @ weight.T + bias
        outputs.append(Outputs(owner, logits=logits, map=maps, weight=weight, bias=bias))
    nets = [net_of([each.map], width=each.map.shape[1], num_classes=len(each.weight)) for each in outputs]
    method = built(case, *nets)
    yield from results(case, method, *outputs, case.tensor("in.target"))
    yield from gradients({key: leaf for key, leaf in leaves.items() if "_s" in key})


PARTS = (("feat", ""), ("classifier", "_weight"), ("classifier", "_bias"))


def of_networks(case: Case) -> Values:
    roles = zip(("student", "teacher"), names_of(case), strict=True)
    student, teacher = (formula_net(case, role, name) for role, name in roles)
    method, images = built(case, student, teacher), images_of(case)
    with torch.no_grad():
        theirs = teacher(images, method.READS.teacher, "teacher")
    ours = student(images, method.READS.student, "student")
    yield from results(case, method, ours, theirs, torch.arange(len(images)) % student.num_classes)
    yield from summed_gradients({f"student.{key}": value for key, value in student.backbone.named_parameters()})
