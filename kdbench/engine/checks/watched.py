"""One method on one pair, watched for an epoch of a few small steps, interrupted, and run in another process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.datasets import from_arrays
from kdbench.engine.checks.small import CPU, NUM_STEPS, PAIRS, make_cell, make_source, steps, tiny_arrays, tiny_protocol
from kdbench.engine.options import Options
from kdbench.engine.progress import Diverged
from kdbench.engine.run import Run
from kdbench.engine.run_state import resume, save
from kdbench.engine.step import StepObserver
from kdbench.errors import UserError
from kdbench.method import Batch
from kdbench.models.evaluate import predict
from kdbench.models.weights import weights_hash
from kdbench.net import Outputs


def state_hash(run: Run) -> str:
    """Hash of everything that is trained or remembered."""
    return weights_hash(
        {f"student.{k}": v for k, v in run.student.state_dict().items()}
        | {f"method.{k}": v for k, v in run.method.state_dict().items()}
    )


def trained(run: Run) -> dict[str, nn.Parameter]:
    """Return what is trained in some phase, by name."""
    ids = {id(parameter) for phase in run.phases for parameter in phase.parameters}
    modules = {"student": run.student, "method": run.method}
    found = {f"{m}.{name}": p for m, module in modules.items() for name, p in module.named_parameters()}
    return {name: parameter for name, parameter in found.items() if id(parameter) in ids}


def places(run: Run) -> dict[str, Tensor]:
    """Return the memory of everything that is trained or remembered.

    While it is kept, nothing else can be put there: what moves has another ``data_ptr``.
    """
    modules = {"student": run.student, "method": run.method}
    return {f"{m}.{k}": v for m, module in modules.items() for k, v in module.state_dict().items()}


class Refused(Exception):
    """The method says that it cannot work on these networks, or on this batch."""


@final
@dataclass
class Epoch:
    """What was seen in the first epoch of one phase."""

    run: Run
    stream_epoch: int
    """Its number in streams and views."""
    student: dict[str, Tensor]
    """The student's first state."""
    places: tuple[dict[str, Tensor], dict[str, Tensor]]
    """After the first step and after the last."""
    teacher: tuple[str, str]
    """Hashes of the teacher's weights before and after; empty without a teacher."""
    logits: Tensor
    """What an evaluation says after the last step, of the test images."""
    terms: list[dict[str, Any]] = field(default_factory=list)
    """Of each step."""
    state_hashes: list[str] = field(default_factory=list)
    """After each step."""
    reached: set[str] = field(default_factory=set)
    """Parameters that got a gradient in some step."""
    non_finite: set[str] = field(default_factory=set)
    """Those whose gradient was not finite."""
    seen: list[tuple[list[int], Tensor]] = field(default_factory=list)
    """Image numbers and plain views of each step."""
    changed: set[str] = field(default_factory=set)
    """What the method was given and changed."""
    queries_teacher: bool = False
    """Whether the method ran the teacher itself."""


@final
class Watched:
    """One method on one pair. What several checks look at is done once.

    Parameters
    ----------
    pair
        A key of ``PAIRS``.
    folder
        For states.
    """

    def __init__(self, method: str, pair: str, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.method, self.pair, self.folder, self.settings = method, pair, folder, settings or {}
        self.dataset = from_arrays("generated", tiny_arrays())

    def run(self, seed: int = 1, **changes: Any) -> Run:
        """Build a run at its beginning, under a protocol with some changes.

        Raises
        ------
        Refused
            The method refuses the pair.
        """
        protocol = tiny_protocol(self.dataset, **changes)
        teacher, student = PAIRS[self.pair]
        cell = make_cell(protocol, self.method, teacher, student, seed, self.settings)
        source = make_source(teacher, protocol, self.dataset) if cell.teacher else None
        batches = Batches(DeviceData(self.dataset, protocol, CPU), protocol, seed)
        try:
            return Run(cell, batches, source, Options(runs=self.folder, device=CPU))
        except UserError as error:
            raise Refused(str(error.__context__ or error)) from None

    def runs(self, **changes: Any) -> Iterator[Run]:
        """Build a run for each phase at the beginning of that phase: pre-training, if there is some, and the rest."""
        run = self.run(**changes)
        before = run.phase.pretraining
        yield run
        if before:
            run = self.run(**changes)
            run.skip_pretraining()
            yield run

    @cached_property
    def outcome(self) -> list[Epoch] | Exception:
        """The first epoch of each phase, watched, or what went wrong in them."""
        try:
            return [_watch(run) for run in self.runs()]
        except Exception as error:
            return error

    @property
    def epochs(self) -> list[Epoch]:
        """The first epoch of each phase, watched. What goes wrong in them is raised whenever they are asked for."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    @cached_property
    def halves(self) -> list[Halves]:
        """Of each phase, an epoch that is interrupted before its last step: by then all has changed that changes."""
        found = []
        for first, second in zip(self.runs(), self.runs(), strict=True):
            steps(first, NUM_STEPS - 1)
            with contextlib.suppress(Diverged):  # what is not finite is another check's to say
                first.flush_losses()
            save(first)
            resume(second)
            found.append(Halves(first, second, state_hash(second)))
        return found

    @cached_property
    def elsewhere(self) -> list[str]:
        """What is trained and remembered after the first step of each phase in another process."""
        return first_steps_elsewhere([(self.method, self.pair, self.settings)])[0]


@final
@dataclass(frozen=True, slots=True)
class Halves:
    """Two runs of one cell: one that was saved before the last step of an epoch, and one that resumes there."""

    first: Run
    second: Run
    restored: str
    """Hash of what the second run begins with."""


def _watch(run: Run) -> Epoch:
    watcher = _Watcher(run)
    with run.observed(watcher):
        steps(run, NUM_STEPS)
    return watcher.epoch_seen()


@final
class _Watcher(StepObserver):
    """Writes down what happens in the steps of an epoch."""

    def __init__(self, run: Run) -> None:
        begun = {name: value.clone() for name, value in run.student.backbone.state_dict().items()}
        self._run, self._source = run, run.source
        self._epoch = Epoch(run, run.stream_epoch, begun, ({}, {}), (self._teacher(), ""), torch.empty(0))
        self._given: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._inside = False
        if self._source:
            self._source.teacher.net.register_forward_pre_hook(self._note_query)

    def begins(self, batch: Batch, teacher: Outputs) -> None:
        """Keep what the method is given."""
        parts = _parts(teacher.narrowed(self._run.needs))
        labels = self._run.data.labels
        self._given = {"its images": batch.images, "its image numbers": batch.index, "the labels": labels, **parts}
        self._before = {name: tensor.clone() for name, tensor in self._given.items()}
        self._epoch.seen.append((batch.index.tolist(), batch.images[: batch.size].clone()))
        self._inside = True

    def ends(self, names: tuple[str, ...], values: Tensor) -> None:
        """Note what the step has changed, and what is trained and remembered now."""
        self._inside = False
        epoch, run = self._epoch, self._run
        epoch.changed |= {name for name, tensor in self._given.items() if not torch.equal(tensor, self._before[name])}
        epoch.terms.append(dict(zip(names, values.tolist(), strict=True)))
        for name, parameter in trained(run).items():
            if parameter.grad is not None:
                epoch.reached.add(name)
                epoch.non_finite |= set() if parameter.grad.isfinite().all() else {name}
        epoch.state_hashes.append(state_hash(run))
        if len(epoch.terms) == 1:
            epoch.places = places(run), {}

    def epoch_seen(self) -> Epoch:
        """Return what was seen, now that the epoch is over."""
        epoch = self._epoch
        assert len(epoch.seen) == len(epoch.terms) == NUM_STEPS, "a step was done that its observer has not seen"
        epoch.places = epoch.places[0], places(self._run)
        epoch.teacher = epoch.teacher[0], self._teacher()
        epoch.logits = predict(self._run.student, self._run.data.evaluation)
        return epoch

    def _note_query(self, *_: object) -> None:
        self._epoch.queries_teacher |= self._inside

    def _teacher(self) -> str:
        """Hash of the teacher's weights, those that are shown to the method and those that are run."""
        nets = (self._source.teacher.net, self._source.live.net) if self._source else ()
        return "".join(weights_hash(net.state_dict()) for net in nets)


def _parts(outputs: Outputs) -> dict[str, Tensor]:
    """Return the tensors that a teacher gives."""
    found = {}
    for name, part in outputs.parts().items():
        for number, tensor in enumerate(part if isinstance(part, tuple) else (part,)):
            found[f"the teacher's {name}" + (f" {number}" if isinstance(part, tuple) else "")] = tensor
    return found


def first_steps_elsewhere(cells: Sequence[tuple[str, str, dict[str, Any]]]) -> list[list[str]]:
    """Do the first step of each phase of methods on pairs, with settings, in another process; return what is left.

    Raises
    ------
    RuntimeError
        The process ended with an error.
    """
    # Sets of texts have another order there.
    chance = {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    done = subprocess.run(  # noqa: S603 - this module
        [sys.executable, "-m", "kdbench.engine.checks.watched", json.dumps([torch.get_num_threads(), cells])],
        env=os.environ | chance,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main(words: str) -> None:
    threads, cells = json.loads(words)
    torch.set_num_threads(threads)
    found: list[list[str]] = []
    for method, pair, settings in cells:
        found.append([])
        for run in Watched(method, pair, Path(os.devnull), settings).runs():
            steps(run, 1)
            found[-1].append(state_hash(run))
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    _main(sys.argv[1])
