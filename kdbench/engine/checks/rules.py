"""What must hold for every method: one function a check, which looks at a `kdbench.engine.checks.watched.Watched`.

A function raises ``Broken`` if its rule does not hold; `kdbench.engine.checks.table` has each rule in words.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import final

import torch
from torch import Tensor

from kdbench.data.views import order
from kdbench.engine.checks import waiting
from kdbench.engine.checks.epoch import same, state_hash, trained
from kdbench.engine.checks.small import NUM_STEPS, begin, steps
from kdbench.engine.checks.watched import Refused, Watched
from kdbench.engine.divergence import Diverged
from kdbench.engine.run import Run
from kdbench.engine.step import StepObserver
from kdbench.errors import UserError
from kdbench.experiment.registry import load_method, method_source, wraps_student
from kdbench.experiment.settings import load_recipes, resolve_settings
from kdbench.method import PLAIN
from kdbench.models import parse_pair
from kdbench.models.build import build_net
from kdbench.models.evaluate import predict
from kdbench.net import Undeclared
from kdbench.utils.precision import Precision


class Broken(Exception):
    """A check does not hold; the text says what was seen."""


def losses(watched: Watched) -> None:
    """Raise Broken unless every term of the loss has a name and is finite."""
    for epoch in watched.epochs:
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


def reads(watched: Watched) -> None:
    """Raise Broken unless what the loss reads is declared."""
    kind = load_method(watched.method)
    try:
        epochs = watched.epochs
    except Undeclared as error:
        raise Broken(str(error)) from None
    for epoch in epochs:
        if epoch.run.needs and not kind.READS.teacher:
            raise Broken("reads() names parts of the teacher, but READS none: the method has no teacher")
        if epoch.queries_teacher:
            raise Broken("loss() runs the teacher itself")


def gradients(watched: Watched) -> None:
    """Raise Broken unless every trainable parameter gets a finite gradient."""
    names = {name for epoch in watched.epochs for name in trained(epoch.run)}
    if missing := sorted(names.difference(*(epoch.reached for epoch in watched.epochs))):
        raise Broken(f"{_listed(missing)} get{'s' if len(missing) == 1 else ''} no gradient")
    if non_finite := sorted(set().union(*(epoch.non_finite for epoch in watched.epochs))):
        raise Broken(f"the gradient of {_listed(non_finite)} is not finite")


def teacher(watched: Watched) -> None:
    """Raise Broken unless the teacher and all that is given stay as they are."""
    for epoch in watched.epochs:
        if epoch.changed:
            raise Broken(f"loss() changes {_listed(sorted(epoch.changed))}")
        if epoch.teacher[0] != epoch.teacher[1]:
            raise Broken("the teacher's weights or statistics are changed")
        source = epoch.run.source
        net = source.net if source else None
        if net and any(module.training for module in net.modules()):
            raise Broken("the teacher is in training mode")
        if net and any(p.grad is not None or p.requires_grad for p in net.parameters()):
            raise Broken("the teacher gets gradients")


def memory(watched: Watched) -> None:
    """Raise Broken unless the loss leaves all that the method keeps as it is."""
    for epoch in watched.epochs:
        if epoch.rewritten:
            raise Broken(f"loss() changes {_listed(sorted(epoch.rewritten))}{_phase(epoch.run)}")


def state(watched: Watched) -> None:
    """Raise Broken unless a saved state comes back the same."""
    for pair in watched.halves:
        first, second = pair.first, pair.second
        if _position(second) != _position(first):
            raise Broken("the position or the sums of the losses differ after a save")
        if pair.restored != state_hash(first):
            raise Broken("parameters or buffers differ after a save")


def resume(watched: Watched) -> None:
    """Raise Broken unless an interrupted run ends as an undisturbed one, in its weights and in what it predicts."""
    for pair, epoch in zip(watched.halves, watched.epochs, strict=True):
        second = pair.second
        steps(second, NUM_STEPS - second.step)
        if state_hash(second) != epoch.state_hashes[-1]:
            raise Broken(f"after an interruption, training{_phase(second)} ends with other weights")
        if not same(predict(second.student, second.data.evaluation), epoch.logits):
            raise Broken(
                f"after an interruption, an evaluation{_phase(second)} gives other logits from the same weights"
            )


def weights(watched: Watched) -> None:
    """Raise Broken unless the saved weights, in a fresh network, predict what was evaluated."""
    fresh = watched.run(seed=2)
    for epoch in watched.epochs:
        fresh.student.backbone.load_state_dict(epoch.run.student.backbone.state_dict())
        if not same(predict(fresh.student, fresh.data.evaluation), epoch.logits):
            raise Broken("the saved weights, loaded into a fresh network, give other logits than were evaluated")


def repeat(watched: Watched) -> None:
    """Raise Broken unless two runs of one seed are equal."""
    before = [epoch.state_hashes[NUM_STEPS - 2] for epoch in watched.epochs]
    if [state_hash(pair.first) for pair in watched.halves] != before:
        raise Broken(f"two runs of one seed differ after their first {NUM_STEPS - 1} steps")


def processes(watched: Watched) -> None:
    """Raise Broken unless two processes get the same."""
    if watched.elsewhere != _first_steps(watched):
        raise Broken("another process gets other weights in its first step")


def seeds(watched: Watched) -> None:
    """Raise Broken unless another seed is another run."""
    run = watched.run(seed=2)
    steps(run, 1)
    if state_hash(run) == _first_steps(watched)[0]:
        raise Broken("seeds 1 and 2 give the same weights")


def paired(watched: Watched) -> None:
    """Raise Broken unless student, order and views are those of all methods."""
    wraps = wraps_student(watched.method, watched.settings)
    for epoch in watched.epochs:
        run = epoch.run
        plain = build_net(run.cell.student, run.cell.protocol, watched.dataset, seed=run.cell.seed, purpose="student")
        for name, value in plain.backbone.state_dict().items():
            # A method may put the student into a larger network, where its weights have longer names.
            initial = [begun for other, begun in epoch.student.items() if f".{other}".endswith(f".{name}")]
            if not any(torch.equal(value, begun) for begun in initial) and (initial or not wraps):
                raise Broken(f"{name} of the student does not begin as under other methods")
        numbers = order(run.cell.seed, epoch.stream_epoch, len(watched.dataset.train_labels))
        if [index for seen, _ in epoch.seen for index in seen] != numbers.tolist():
            raise Broken("the images come in another order than under other methods")
        images_of, numbering = run.data.images, run.data.images.numbering
        ids = numbering.draw(run.cell.seed, epoch.stream_epoch, len(numbers), PLAIN)[0]
        for index, images in epoch.seen:
            if not torch.equal(images, images_of.views(numbering.pair(torch.tensor(index), ids[index]))):
                raise Broken("the plain views are not those of other methods")


def one_image(watched: Watched) -> None:
    """Raise Broken unless a batch of one image trains, or is refused with the reason."""
    for run in watched.runs(batch_size=1):
        try:
            steps(run, 1)
            run.flush_losses()
        except Diverged as error:
            raise Broken(f"with one image, {_values(error)}") from None
        except ValueError as error:
            raise Refused(str(error)) from None


def bf16(watched: Watched) -> None:
    """Raise Broken unless training in bfloat16 is finite, with losses in float32."""
    _trains_in(watched, "bf16")


def fp16(watched: Watched) -> None:
    """Raise Broken unless training in float16 is finite, with losses in float32."""
    _trains_in(watched, "fp16")


def no_waiting(watched: Watched) -> None:
    """Raise Broken if a step waits for the device."""
    for epoch in watched.epochs:
        run = epoch.run
        run.rewind()
        step = begin(run)
        try:
            with waiting.no_waiting():
                step()
        except waiting.Waits as error:
            raise Broken(method_source(watched.method).place_of(error)) from None


def in_place(watched: Watched) -> None:
    """Raise Broken unless state changes in place."""
    for epoch in watched.epochs:
        before, after = ({name: value.data_ptr() for name, value in each.items()} for each in epoch.places)
        if moved := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
            raise Broken(f"{_listed(moved)} moved to other memory")


def recipe(watched: Watched) -> None:
    """Raise Broken unless the recipe file fits the settings."""
    known, default = typing.get_type_hints(load_method(watched.method).Config), load_method(watched.method).Config()
    defaults = {f.name: getattr(default, f.name) for f in fields(default)}
    seen: set[tuple[str, str]] = set()
    for entry in load_recipes(watched.method):
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
                    watched.method, dataset=entry.dataset, teacher=spelt.teacher.network, student=spelt.student
                )
            except UserError as error:
                raise Broken(str(error)) from None
            if str(spelt) != pair:
                raise Broken(f"pair {pair} is spelt {spelt}")
            if (entry.dataset, pair) in seen:
                raise Broken(f"{pair} on {entry.dataset} is there twice")
            seen.add((entry.dataset, pair))


@final
class _LossTypes(StepObserver):
    """Which terms of a loss are in half precision."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.low: set[str] = set()

    def computed(self, terms: Mapping[str, Tensor]) -> None:
        """Look at the types of the terms."""
        self.seen |= terms.keys()
        self.low |= {name for name, term in terms.items() if term.dtype not in (torch.float32, torch.float64)}


def _trains_in(watched: Watched, precision: Precision) -> None:
    for run in watched.runs(precision=precision):
        types = _LossTypes()
        try:
            with run.observed(types):
                steps(run, NUM_STEPS - 1)
            run.flush_losses()
        except Diverged as error:
            raise Broken(_values(error)) from None
        assert types.seen, "the loss was computed, and its observer has not seen it"
        if low := types.low:
            raise Broken(f"{_listed(sorted(low))} of the loss {'is' if len(low) == 1 else 'are'} in half precision")
        if any(parameter.dtype != torch.float32 for parameter in run.parameters):
            raise Broken("a parameter is not float32 any more")


def _first_steps(watched: Watched) -> list[str]:
    """Return the state hash after the first step of each phase."""
    return [epoch.state_hashes[0] for epoch in watched.epochs]


def _position(run: Run) -> tuple[object, ...]:
    """Return where a run is, with the sums of its losses."""
    return run.phase.pretraining, run.epoch, run.step, run.tally.sums


def _phase(run: Run) -> str:
    return " of pre-training" if run.phase.pretraining else ""


def _values(error: Diverged) -> str:
    return ", ".join(f"{name} = {value}" for name, value in error.failure["terms"].items())


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
