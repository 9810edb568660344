"""Find the pairs and images of a grid that a method does not support, without allocating weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import torch

from kdbench.data.groups import Layout
from kdbench.data.images import DataShape
from kdbench.data.views import check_plan
from kdbench.engine.step import check_batches
from kdbench.experiment.protocol import Protocol
from kdbench.experiment.registry import load_method
from kdbench.grid.grid import Grid
from kdbench.grid.shapes import without_values
from kdbench.grid.variants import Variant
from kdbench.method import Setup
from kdbench.models import build_backbone
from kdbench.net import Net
from kdbench.teachers.demand import Wanted


def unsupported(grid: Grid, variants: Iterable[Variant], data: DataShape) -> dict[str, str]:
    """Return why methods do not support pairs of the grid, or its images, by ``"METHOD PAIR"``.

    A method that reads values of a network, or a network that cannot be built without them, is not judged here.
    """
    protocol, nets = grid.session.protocol, dict[str, Net | None]()
    reasons: dict[str, str] = {}
    for variant in variants:
        cell = variant.cell
        names = [cell.student, *([cell.teacher.network] if cell.teacher else [])]
        for name in names:
            if name not in nets:
                nets[name] = _net(name, protocol, data)
        student, *teacher = (nets[name] for name in names)
        if student is None or None in teacher:
            continue
        try:
            check_plan(Wanted.by(cell).plan, data.image_size)
            with without_values():
                labels = torch.zeros(data.num_images, dtype=torch.int64)
                setup = Setup(
                    student=student,
                    teacher=teacher[0] if teacher else None,
                    labels=labels,
                    epochs=protocol.epochs,
                    steps_per_epoch=1,
                    group_size=protocol.rules.schedule.images_together,
                )
                method = load_method(cell.method)(cell.settings.config, setup)
                method.wrap(setup)
            check_batches(method, Layout(data.num_images, protocol.rules.schedule))
        except ValueError as error:
            reasons[variant.name] = str(error)
        except Exception:  # noqa: S112 - it needs values
            continue
    return reasons


def _net(network: str, protocol: Protocol, data: DataShape) -> Net | None:
    rules = protocol.rules.data
    with contextlib.suppress(Exception), without_values():
        backbone = build_backbone(network, data.num_classes, data.image_size)
        return Net(network, backbone, mean=rules.mean, std=rules.std, image_size=data.image_size)
    return None
