"""What must hold for every method: one function a check, which looks at a :class:`kdbench.engine.checks.small.Trial`.

``kdbench validate`` and the tests run the same table.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from kdbench.data.views import order, views
from kdbench.engine.checks.small import NUM_STEPS, steps
from kdbench.engine.checks.watched import Refused, Trial, remembered, trained
from kdbench.engine.progress import Diverged
from kdbench.engine.run import Run
from kdbench.errors import UserError
from kdbench.experiment.registry import load_method, method_source
from kdbench.experiment.settings import load_recipes, resolve_settings
from kdbench.method import PLAIN, Batch, Loss, Method
from kdbench.models import parse_pair
from kdbench.models.build import build_net
from kdbench.net import Outputs, Undeclared
from kdbench.utils.precision import Precision


class Broken(Exception):
    """A check does not hold; the text says what was seen."""


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold. Its function's docstring says what in its first line, and then what to do if not."""

    holds: Callable[[Trial], None]
    """Raises ``Broken`` if it does not, and ``Refused`` where the method says that it cannot work."""
    every_pair: bool = True
    """Whether it is asked on every pair; on the first one alone otherwise."""

    @property
    def what(self) -> str:
        """What must hold."""
        return self._text()[0]

    @property
    def remedy(self) -> str:
        """What to do if it does not."""
        return self._text()[2]

    def _text(self) -> tuple[str, str, str]:
        lines = (inspect.getdoc(self.holds) or "").partition("\n\n")
        return lines[0].rstrip("."), lines[1], " ".join(lines[2].split())


def losses(trial: Trial) -> None:
    """Every term of the loss has a name and is finite.

    Return a dict of scalars; guard logarithms and divisions, or add a small number where the authors do.
    """
    for epoch in trial.epochs:
        for step, terms in enumerate(epoch.terms, 1):
            if not terms:
                raise Broken("loss() returns no term")
            for name, value in terms.items():
                if not (isinstance(name, str) and name):
                    raise Broken(f"a term is called {name!r}")
                if not isinstance(value, float):
                    raise Broken(f"term {name} is no scalar")
                if not math.isfinite(value):
                    raise Broken(f"term {name} is {value} in step {step}{_phase(epoch.run)}")


def reads(trial: Trial) -> None:
    """What the loss reads is declared.

    Name it in READS, or where it depends on settings in reads(), and take it from what loss() is given.
    """
    kind = load_method(trial.method)
    try:
        epochs = trial.epochs
    except Undeclared as error:
        raise Broken(str(error)) from None
    for epoch in epochs:
        if epoch.run.needs and not kind.READS.teacher:
            raise Broken("reads() names parts of the teacher, but READS none: the method has no teacher")
        if epoch.asked:
            raise Broken("loss() runs the teacher itself")


def gradients(trial: Trial) -> None:
    """Every trainable parameter gets a finite gradient.

    Use it in loss(), drop it, or make it a buffer; a .detach() or no_grad() may stand in the way.
    """
    names = {name for epoch in trial.epochs for name in trained(epoch.run)}
    if missing := sorted(names.difference(*(epoch.reached for epoch in trial.epochs))):
        raise Broken(f"{_listed(missing)} get{'s' if len(missing) == 1 else ''} no gradient")
    if endless := sorted(set().union(*(epoch.endless for epoch in trial.epochs))):
        raise Broken(f"the gradient of {_listed(endless)} is not finite")


def teacher(trial: Trial) -> None:
    """The teacher and all that is given stay as they are.

    Work on copies, not with in-place operations, and do not register the teacher or a part of it as a module.
    """
    for epoch in trial.epochs:
        if epoch.changed:
            raise Broken(f"loss() changes {_listed(sorted(epoch.changed))}")
        if epoch.teacher[0] != epoch.teacher[1]:
            raise Broken("the teacher's weights or statistics are changed")
        source = epoch.run.source
        net = source.teacher.net if source else None
        if net and any(module.training for module in net.modules()):
            raise Broken("the teacher is in training mode")
        if net and any(p.grad is not None or p.requires_grad for p in net.parameters()):
            raise Broken("the teacher gets gradients")


def state(trial: Trial) -> None:
    """A saved state comes back the same.

    Keep state in parameters and buffers that state_dict() holds, of shapes that do not change.
    """
    for pair in trial.halves:
        first, second = pair.first, pair.second
        if (second.epoch, second.step, second.sums) != (first.epoch, first.step, first.sums):
            raise Broken("the position or the sums of the losses differ after a save")
        if pair.restored != remembered(first):
            raise Broken("parameters or buffers differ after a save")


def resume(trial: Trial) -> None:
    """An interrupted run ends as an undisturbed one.

    Keep what lives between steps in buffers (register_buffer), not in attributes or globals.
    """
    for pair, epoch in zip(trial.halves, trial.epochs, strict=True):
        second = pair.second
        steps(second, NUM_STEPS - second.step)
        if remembered(second) != epoch.remembered[-1]:
            raise Broken(f"after an interruption, training{_phase(second)} ends with other weights")


def repeat(trial: Trial) -> None:
    """Two runs of one seed are equal.

    Draw random numbers with torch, in loss() with generator=batch.generator, and keep nothing in globals.
    """
    if [remembered(pair.first) for pair in trial.halves] != _first_steps(trial):
        raise Broken("two runs of one seed differ after their first step")


def processes(trial: Trial) -> None:
    """Two processes get the same.

    Do not depend on the order of a set, on hash(), id(), the time or the process.
    """
    if trial.elsewhere != _first_steps(trial):
        raise Broken("another process gets other weights in its first step")


def seeds(trial: Trial) -> None:
    """Another seed is another run.

    Do not seed random numbers or set the student's weights yourself.
    """
    run = trial.run(seed=2)
    steps(run, 1)
    if remembered(run) == _first_steps(trial)[0]:
        raise Broken("seeds 1 and 2 give the same weights")


def paired(trial: Trial) -> None:
    """Student, order and views are those of all methods.

    Leave setup.student as it is; override wrap() if it must be another network.
    """
    wraps = load_method(trial.method).wrap is not Method.wrap
    for epoch in trial.epochs:
        run = epoch.run
        plain = build_net(run.cell.student, run.cell.protocol, trial.dataset, seed=run.cell.seed, purpose="student")
        for name, value in plain.backbone.state_dict().items():
            # A method may put the student into a larger network, where its weights have longer names.
            found = [own for other, own in epoch.student.items() if f".{other}".endswith(f".{name}")]
            if not any(torch.equal(value, own) for own in found) and (found or not wraps):
                raise Broken(f"{name} of the student does not begin as under other methods")
        numbers = order(run.cell.seed, epoch.number, len(trial.dataset.train_labels))
        if [index for seen, _ in epoch.seen for index in seen] != numbers.tolist():
            raise Broken("the images come in another order than under other methods")
        ids = views(run.cell.seed, epoch.number, len(numbers), run.data.images.augmentation, PLAIN)[0]
        for index, images in epoch.seen:
            if not torch.equal(images, run.data.images.augment(torch.tensor(index), ids[index])):
                raise Broken("the plain views are not those of other methods")


def one_image(trial: Trial) -> None:
    """A batch of one image trains, or is refused with the reason.

    Do not divide by B - 1 or by a variance over the batch, or raise ValueError with the remedy.
    """
    for run in trial.runs(batch_size=1):
        try:
            steps(run, 1)
            run.drain()
        except Diverged as error:
            raise Broken(f"with one image, {_values(error)}") from None
        except ValueError as error:
            raise Refused(str(error)) from None


def bf16(trial: Trial) -> None:
    """Training in bfloat16 is finite, losses are in float32.

    Compute the loss in float32: call .float() on what it reads, and switch autocast off around matrix products.
    """
    _trains_in(trial, "bf16")


def fp16(trial: Trial) -> None:
    """Training in float16 is finite, losses are in float32.

    Compute the loss in float32: call .float() on what it reads, and switch autocast off around matrix products.
    """
    _trains_in(trial, "fp16")


def no_waiting(trial: Trial) -> None:
    """No step waits for the device.

    No .item(), .tolist(), print, Python if on a tensor, boolean index or nonzero in loss(): use torch.where.
    """
    # Tensors that have shapes but no values; what asks for a value fails, and so does what no CUDA graph can record.
    for epoch in trial.epochs:
        run = epoch.run
        run.step = 0
        # It has begun, which is no part of a step.
        run.batches.begin = lambda epoch: None  # type: ignore[method-assign]  # noqa: ARG005
        try:
            with FakeTensorMode(allow_non_fake_inputs=True):
                steps(run, 1)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            what = "the value of a tensor" if isinstance(error, DataDependentOutputException) else "a shape of values"
            raise Broken(f"{method_source(trial.method).place_of(error)}: it waits for {what}") from None


def in_place(trial: Trial) -> None:
    """State changes in place.

    Write into a buffer (copy_, lerp_, index_copy_) instead of assigning a new tensor to it.
    """
    for epoch in trial.epochs:
        before, after = epoch.places
        if moved := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
            raise Broken(f"{_listed(moved)} moved to other memory")


def recipe(trial: Trial) -> None:
    """The recipe file fits the settings.

    Mend the file that lies beside the method; 'kdbench show METHOD' lists settings, 'kdbench list pairs' pairs.
    """
    known, default = typing.get_type_hints(load_method(trial.method).Config), load_method(trial.method).Config()
    defaults = {f.name: getattr(default, f.name) for f in fields(default)}
    seen: set[tuple[str, str]] = set()
    for entry in load_recipes(trial.method):
        if not entry.source:
            raise Broken(f"a recipe for {entry.dataset} has no source")
        for key, value in entry.settings.items():
            if key not in known:
                raise Broken(f"{key} is no setting; there are {', '.join(known) or 'none'}")
            if value == defaults[key]:
                raise Broken(f"{key} = {value!r} is the default: leave it out")
        for pair in entry.pairs:
            try:
                spelt = parse_pair(pair)
                resolve_settings(
                    trial.method, dataset=entry.dataset, teacher=spelt.teacher.network, student=spelt.student
                )
            except UserError as error:
                raise Broken(str(error)) from None
            if str(spelt) != pair:
                raise Broken(f"pair {pair} is spelt {spelt}")
            if (entry.dataset, pair) in seen:
                raise Broken(f"{pair} on {entry.dataset} is there twice")
            seen.add((entry.dataset, pair))


def _trains_in(trial: Trial, precision: Precision) -> None:
    for run in trial.runs(precision=precision):
        low: set[str] = set()

        def watched(
            student: Outputs, teacher: Outputs, batch: Batch, *, loss: Loss = run.phase.loss, low: set[str] = low
        ) -> dict[str, Tensor]:
            terms = loss(student, teacher, batch)
            low.update(name for name, term in terms.items() if term.dtype not in (torch.float32, torch.float64))
            return terms

        run.phase = replace(run.phase, loss=watched)
        try:
            steps(run, NUM_STEPS - 1)
            run.drain()
        except Diverged as error:
            raise Broken(_values(error)) from None
        if low:
            raise Broken(f"{_listed(sorted(low))} of the loss {'is' if len(low) == 1 else 'are'} in half precision")
        if any(parameter.dtype != torch.float32 for parameter in run.parameters):
            raise Broken("a parameter is not float32 any more")


def _first_steps(trial: Trial) -> list[str]:
    """What is remembered after the first step of each phase."""
    return [epoch.remembered[0] for epoch in trial.epochs]


def _phase(run: Run) -> str:
    return " of pre-training" if run.phase is not run.phases[-1] else ""


def _values(error: Diverged) -> str:
    return ", ".join(f"{name} = {value}" for name, value in error.failure["terms"].items())


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


CHECKS = {
    "losses": Check(losses),
    "reads": Check(reads),
    "gradients": Check(gradients),
    "teacher": Check(teacher),
    "state": Check(state),
    "resume": Check(resume),
    "repeat": Check(repeat),
    "processes": Check(processes, every_pair=False),
    "seeds": Check(seeds, every_pair=False),
    "paired": Check(paired),
    "one image": Check(one_image, every_pair=False),
    "bf16": Check(bf16, every_pair=False),
    "fp16": Check(fp16, every_pair=False),
    "no waiting": Check(no_waiting),
    "in place": Check(in_place),
    "recipe": Check(recipe, every_pair=False),
}
"""Every check by its name, in order; ``no waiting`` comes after what looks at weights."""
