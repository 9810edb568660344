"""The layers that a method adds to a step: what its loss runs forward and backward, and nothing else of it."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from kdbench.data.batches import Batches
from kdbench.engine.run import Run
from kdbench.engine.step import StepObserver
from kdbench.method import Batch
from kdbench.net import Outputs
from kdbench.teachers.sources import TeacherSource
from kdbench.utils.device import autocast


@final
class LayerPasses(StepObserver):
    """Forward and backward passes of the layers that a loss runs, each on the maps that it was given.

    Layers are the modules without parts. They are the method's, and those of networks that a loss runs on maps of its
    own. What a method puts into the student is no part of them.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.calls: list[tuple[nn.Module, tuple[Any, ...]]] = []

    @classmethod
    def of(cls, run: Run, batches: Batches, source: TeacherSource) -> LayerPasses:
        """Return the passes of the first step of a run's epoch."""
        passes, plan = cls(run), run.feed.plan
        reader = source.reader(batches, plan, run.needs)
        with run.observed(passes):
            for group in batches.groups(0):
                run.begin_group(group)
                views = {side: batches.images(group, plan, side) for side in run.feed.sides}
                run.add(group, views[None], reader.outputs(views, reader.inputs(group)))
        return passes

    def begins(self, batch: Batch, teacher: Outputs) -> None:
        """Compute the loss, and note the layers that it runs."""
        phase = self._run.phase
        with self._autocast():
            student = self._run.student(batch.images, phase.reads.student)
            hook = register_module_forward_pre_hook(self._note)
            try:
                phase.loss(student, teacher.narrowed(phase.reads.teacher), batch)
            finally:
                hook.remove()

    def _note(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if next(module.children(), None) is None:
            self.calls.append((module, tuple(_leaf(value) for value in inputs)))

    def _autocast(self) -> Any:
        return autocast(self._run.options.device, self._run.cell.protocol.precision)

    def __call__(self) -> None:
        """Run the layers."""
        with self._autocast():
            outputs = [module(*inputs) for module, inputs in self.calls]
        trained = [output for output in outputs if output.requires_grad]
        torch.autograd.backward(trained, [output.detach() for output in trained])


def _leaf(value: Any) -> Any:
    """Return a tensor without its history, which has a gradient if it had one."""
    return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
