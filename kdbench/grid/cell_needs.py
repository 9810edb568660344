"""Find what cells need of memory and disk, and the pairs that a method does not support, without allocating weights."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from kdbench.data.groups import Layout
from kdbench.data.images import DataShape
from kdbench.data.views import check_plan
from kdbench.engine.build import check_batches
from kdbench.engine.split import check_momenta
from kdbench.engine.step import Step
from kdbench.experiment.cell import Cell
from kdbench.experiment.registry import load_method
from kdbench.experiment.rule_groups import OptimizerRules
from kdbench.grid.grid import Grid
from kdbench.grid.shapes import shape_at, trained_labels, without_values
from kdbench.grid.variants import Variant
from kdbench.method import Setup
from kdbench.models import build_backbone
from kdbench.net import Net
from kdbench.teachers.demand import Wanted, unsupported
from kdbench.utils.device import one_thread


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CellNeed:
    """The bytes that one cell takes while it is trained, by the shapes of its networks and of its method."""

    state: int
    """Its saved state: weights, what the optimiser keeps of each, and what the method keeps."""
    device: int
    """Networks, gradients, and what optimiser and method keep: all but activations and images."""
    method: int
    """What the method adds to the state."""


def cell_needs(
    grid: Grid, variants: Iterable[Variant], data: DataShape
) -> tuple[dict[Variant, CellNeed], dict[str, str]]:
    """Return what a cell of each variant needs, and why methods do not support pairs of the grid, or its images.

    A method that reads values of a network, or a network that cannot be built without them, is in neither.

    Returns
    -------
    needs, reasons
        The reasons by ``"METHOD PAIR"``.
    """
    nets: dict[tuple[str, int | None], Net | None] = {}
    labels: dict[float, Tensor] = {}
    needs: dict[Variant, CellNeed] = {}
    reasons: dict[str, str] = {}
    for variant in variants:
        cell = variant.cell
        keys = [(cell.student, None), *((each.ref.network, each.side) for each in grid.networks(cell))]
        for name, side in keys:
            if (name, side) not in nets:
                nets[name, side] = _net(name, shape_at(data, side))
        student, *teachers = (nets[key] for key in keys)
        networks = [net for net in teachers if net is not None]
        if student is None or len(networks) < len(teachers):
            continue
        share = cell.protocol.rules.evaluation.validation
        if share not in labels:
            labels[share] = trained_labels(grid.session, cell.protocol)
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
        try:
            needs[variant] = _need(cell, student, networks, data, labels[share])
        except ValueError as error:
            reasons[variant.name] = str(error)
        except Exception:  # noqa: S112 - it needs values
            continue
        finally:  # some methods freeze parts of a student
            for parameter in trained:
                parameter.requires_grad_()
    return needs, reasons


def _need(cell: Cell, student: Net, teachers: Sequence[Net], data: DataShape, labels: Tensor) -> CellNeed:
    """Build a cell's step, and add up what it keeps.

    Parameters
    ----------
    teachers
        The network that teaches, those of an ensemble, or none where it is a file of logits.

    Raises
    ------
    ValueError
        The method does not support the networks or the images.
    """
    protocol = cell.protocol
    schedule, optimizer = protocol.rules.schedule, protocol.rules.optimizer
    if reason := unsupported(cell):
        raise ValueError(reason)
    check_plan(Wanted.by(cell).plan, data.image_size)
    groups = load_method(cell.method).term_groups(cell.settings.config)
    check_momenta(optimizer, groups)
    plain = _bytes(student.backbone.state_dict()) + _trained(student) * _values_kept(optimizer)
    with without_values():
        setup = Setup(
            student=student,
            teacher=teachers[0] if cell.teacher and cell.teacher.is_network else None,
            labels=labels,
            epochs=protocol.epochs,
            steps_per_epoch=1,
            group_size=schedule.images_together,
        )
        method = load_method(cell.method)(cell.settings.config, setup)
        step = Step(method.wrap(setup), method)
    check_batches(method, Layout(len(labels), schedule))
    kept = _trained(step) * _values_kept(optimizer) * len(groups)
    state = _bytes(step.student.backbone.state_dict()) + _bytes(method.state_dict()) + kept
    device = [
        *step.parameters(),
        *step.buffers(),
        *itertools.chain(*((*net.parameters(), *net.buffers()) for net in teachers)),
    ]
    return CellNeed(
        state=state,
        device=sum(tensor.nbytes for tensor in device) + _trained(step) * len(groups) + kept,
        method=state - plain,
    )


def _trained(module: nn.Module) -> int:
    """Return the bytes of what is trained."""
    return sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)


def _values_kept(rules: OptimizerRules) -> int:
    """Return how many values an optimiser keeps of each that it changes."""
    return 2 if rules.name == "AdamW" else int(bool(rules.momentum))


def _bytes(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in state.values())


def _net(network: str, data: DataShape) -> Net | None:
    mean, std = (0.0,) * 3, (1.0,) * 3  # needs do not depend on them
    with contextlib.suppress(Exception):
        with without_values():
            backbone = build_backbone(network, data.num_classes, data.image_size)
        # One image through weights without meaning is sooner done than torch's compiler is loaded, as maps on the meta
        # device need it.
        with one_thread():
            net = Net(network, backbone.to_empty(device="cpu"), mean=mean, std=std, image_size=data.image_size)
        backbone.to("meta")
        return net
    return None
