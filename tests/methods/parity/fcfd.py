"""FCFD; the networks are in training mode, and the two paths that count are those of the file."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import Tensor, nn

from kdbench.functional import warmup_factor
from kdbench.methods import fcfd
from kdbench.methods.kd import kl_per_image
from parity._networks import fill_added, formula_net, images_of, names_of, summed_gradients
from parity._wiring import Values, total


def bridges(method: fcfd.FCFD) -> dict[str, nn.Module]:
    """Bridges by stage, target and source; the reference has one behind the last stage that nothing uses."""
    found: dict[str, nn.Module] = {}
    unused = fcfd.bridge(method._nets[0].shapes[-1], method._nets[1].shapes[-1], activated=False).double()
    to_student = [*method.to_student, unused]
    for stage, pair in enumerate(zip(method.to_teacher, to_student, strict=True), start=1):
        found |= {f"bridges.{stage}.{target}.{1 - target}": each for target, each in enumerate(pair)}
    return found


def computed(case: Case) -> Values:
    roles = zip(("student", "teacher"), names_of(case), strict=True)
    student, teacher = (formula_net(case, role, name) for role, name in roles)
    teacher.train().requires_grad_(requires_grad=False)
    config = fcfd.FCFD.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kl_student_weight"),
        kd_temperature=case.value("hp.T"),
        mixture_weight=case.value("hp.kl_mixture_weight"),
        feature_weight=case.value("hp.l2_weight"),
    )
    method = fcfd.FCFD(config, stub_setup(student, teacher)).double()
    parameters = fill_added(case, bridges(method))
    images = images_of(case)
    targets = torch.arange(len(images)) % student.num_classes
    ours = student(images, method.READS.student, "student")
    with torch.no_grad():
        theirs = teacher(images, method.READS.teacher, "teacher")
    yield "out.logits.student", ours.logits
    yield "out.logits.teacher", theirs.logits
    chosen = [".".join(map(str, path)) for path in case.arrays["hp.extra_paths"].tolist()]
    names = [name for stage in (2, 3) for name in (path(0, stage), path(1, stage))]
    counts = torch.tensor([float(name in chosen) for name in names]).double()
    assert counts.sum() == 2
    seen: list[Any] = []
    mixed = method.mixed

    def watched(*inputs: Any) -> Any:
        seen.append((inputs, mixed(*inputs)))
        return seen[-1][1]

    epoch = int(case.value("hp.epoch_from_0")) + 1
    with mock.patch.object(fcfd, "drawn_paths", return_value=counts), mock.patch.object(method, "mixed", watched):
        terms = method.loss(ours, theirs, stub_batch(targets, epoch=epoch))
    ((bridged, goals), paths) = seen[0]
    errors: list[Tensor] = [
        fcfd.map_error(a, b, last=k == 2) for k, (a, b) in enumerate(zip(bridged, goals, strict=True))
    ]
    for name, (logits, maps) in zip(names, paths, strict=True):
        yield f"out.logits.{name}", logits
        for stage, each in maps.items():
            errors[stage] = errors[stage] + (name in chosen) * fcfd.map_error(each, goals[stage], last=stage == 2)
    yield "out.l2_per_stage", torch.stack(errors)
    factor = warmup_factor(epoch / 240, config.warmup) * config.feature_weight
    torch.testing.assert_close(terms["feature"], factor * torch.stack(errors).sum())
    kl = kl_per_image(ours.logits, theirs.logits, config.kd_temperature).mean()
    torch.testing.assert_close(terms["kd"], config.kd_weight * kl)
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    of_student = {f"student.{key}": value for key, value in student.backbone.named_parameters()}
    yield from summed_gradients(of_student | parameters)
    for role, net in (("student", student), ("teacher", teacher)):
        for key, value in net.backbone.named_buffers():
            yield f"buf_l2_after1.{role}.{key}", value.double().norm()


def path(begin: int, stage: int) -> str:
    """The name of a path through the stem and three stages that is in the other network from a stage on."""
    return ".".join(str(begin if number < stage else 1 - begin) for number in range(4))
