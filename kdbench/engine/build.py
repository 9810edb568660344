"""Build what a cell trains: its student and the method around it, on the device."""

from __future__ import annotations

from kdbench.data.batches import Batches
from kdbench.data.groups import Layout
from kdbench.data.images import Unread
from kdbench.engine.options import Options
from kdbench.engine.phase import count_extra_parameters
from kdbench.engine.shared import Feed
from kdbench.engine.split import check_momenta
from kdbench.engine.step import Step
from kdbench.engine.survey import fill_surveyed
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.registry import load_method
from kdbench.method import Method, Setup
from kdbench.models.starts import build_student
from kdbench.net import Net
from kdbench.teachers.demand import unsupported
from kdbench.utils.device import memory_format
from kdbench.utils.streams import seeded


def build_module(cell: Cell, batches: Batches, feed: Feed, options: Options, *, surveyed: bool) -> tuple[Step, int]:
    """Build a cell's student and method, and let the batches prepare the views that they need.

    Parameters
    ----------
    surveyed
        Whether the method computes what it wants over the training set.

    Returns
    -------
    module
        Student and method on the device.
    extra_parameters
        Number of trainable parameters beyond the student's own.

    Raises
    ------
    UserError
        The method cannot work on these networks or images.
    """
    device, source = options.device, feed.source
    student = build_student(cell, options.runs, batches.data.dataset)
    try:
        if reason := unsupported(cell):
            raise ValueError(reason)
        batches.add(feed.plan, source.sides if source else ())
        compiled = options.compile and device.type != "cuda"
        teacher, no_teacher = (source.net, source.absent) if source else (None, "")
        module = _build_step(cell, student, batches, teacher, no_teacher=no_teacher, compiled=compiled)
        if surveyed:
            fill_surveyed(module.method, cell, batches, source, options.runs)
    except Unread:
        raise
    except ValueError as error:
        raise UserError(f"{cell} cannot run: {error}") from None
    layout = memory_format(device, cell.protocol.precision)
    module.to(device, memory_format=layout)  # type: ignore[call-overload]
    return module, count_extra_parameters(student, module.student, module.method)


def _build_step(
    cell: Cell, student: Net, batches: Batches, teacher: Net | None, *, no_teacher: str, compiled: bool
) -> Step:
    """Build a cell's method around its student, from the method's own random stream.

    Parameters
    ----------
    no_teacher
        Why there is no network that teaches, where the method needs a teacher.

    Raises
    ------
    ValueError
        The method cannot work on these networks, or on batches of this size.
    """
    method_class, protocol = load_method(cell.method), cell.protocol
    setup = Setup(
        student=student,
        teacher=teacher,
        labels=batches.labels,
        epochs=protocol.epochs,
        steps_per_epoch=batches.steps,
        group_size=batches.schedule.images_together,
        **({"no_teacher": no_teacher} if no_teacher else {}),
    )
    with seeded(cell.seed, "init", "method"):
        method = method_class(cell.settings.config, setup)
        net = method.wrap(setup)
    check_momenta(protocol.rules.optimizer, method.term_groups(cell.settings.config))
    check_batches(method, batches.layout)
    return Step(net, method, protocol.precision, compiled=compiled)


def check_batches(method: Method, layout: Layout) -> None:
    """Raise ValueError where a group of an epoch has fewer images than a method can train on."""
    num_images, schedule = layout.num_images, layout.schedule
    if not layout.steps:
        raise ValueError(
            f"{num_images} images are no batch: it has {schedule.num_groups} groups, of two images each at least"
        )
    smallest = layout.smallest
    if smallest >= max(method.min_images, 1):
        return
    images = "one image" if smallest == 1 else f"{smallest} images"
    groups, last = schedule.num_groups, smallest < min(schedule.batch_size, num_images) // schedule.num_groups
    what, parts = ("a batch", "") if groups == 1 else ("a group", f", each of {groups} groups,")
    raise ValueError(
        f"the method cannot train on {what} of {images}, and an epoch of {num_images} images in batches of "
        f"{schedule.batch_size}{parts} has one: choose a batch size of at least {max(method.min_images, 1) * groups}"
        f"{', in the last batch of an epoch as well' if last else ''}"
    )
