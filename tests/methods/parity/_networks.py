"""Whole networks whose weights and images follow the formula in tests/parity/README.md, in float64."""

from __future__ import annotations

import contextlib
import re

import torch
from parity_files import Case, fill_by_formula, formula_images
from torch import Tensor, nn

from kdbench.models import build_backbone, canonical_network
from kdbench.net import Net
from parity._wiring import Values


def names_of(case: Case) -> tuple[str, str]:
    """Return the names of student and teacher in ``STUDENT_from_TEACHER``, between words before and an epoch behind."""
    match = re.fullmatch(r"(.+)_from_(.+?)(?:_epoch\d+)?", case.file)
    assert match, f"{case.name} names no two networks"
    words = match[1].split("_")
    for first in range(len(words)):
        student = "_".join(words[first:])
        with contextlib.suppress(ValueError):
            canonical_network(student)
            return student, match[2]
    raise AssertionError(f"{case.name}: no network is named {match[1]}")


def formula_net(case: Case, role: str, name: str) -> Net:
    backbone = build_backbone(name, int(case.value("hp.num_classes")), (32, 32))
    k0, scale = int(case.value(f"hp.{role}_k0")), case.value(f"hp.bn_scale_{role}")
    backbone.load_state_dict(fill_by_formula(backbone.state_dict(), k0, scale))
    net = Net(name, backbone, mean=(0.0,) * 3, std=(1.0,) * 3, image_size=(32, 32)).double()
    return net.train(role == "student")


def fill_added(case: Case, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Fill a method's modules, in the reference's order; return their parameters by the reference's names."""
    states = [{f"{prefix}.{key}": value for key, value in m.state_dict().items()} for prefix, m in modules.items()]
    order = [key for state in states for key in state]
    filled = fill_by_formula({k: v for s in states for k, v in s.items()}, int(case.value("hp.aux_k0")))
    assert list(filled) == order
    parameters = {}
    for prefix, module in modules.items():
        module.load_state_dict({key: filled[f"{prefix}.{key}"] for key in module.state_dict()})
        parameters |= {f"{prefix}.{key}": parameter for key, parameter in module.named_parameters()}
    return parameters


def images_of(case: Case, views: int = 1) -> Tensor:
    """The images, sample-major where there are several views."""
    shape = (int(case.value("hp.batch")) * views, 3, 32, 32)
    return formula_images(shape, int(case.value("hp.input_k"))).double()


def summed_gradients(parameters: dict[str, Tensor]) -> Values:
    """The length of each parameter's gradient, and its inner product with the parameter."""
    for key, parameter in parameters.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        yield f"grad_l2.{key}", gradient.norm()
        yield f"grad_dot_w.{key}", (gradient * parameter).sum()
