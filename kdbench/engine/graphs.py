"""Steps as CUDA graphs, for networks so small that launching their kernels takes longer than running them.

A graph is recorded from one step and replayed for the others, so a step must be the same work each time: nothing
waits for the device, shapes are fixed, state changes in place. Numbers that come from the epoch are constants in a
graph; therefore each epoch records its own. Its first step, and a last batch of another size, run as usual.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from kdbench.engine.outcomes import Outcomes
from kdbench.engine.run import Run
from kdbench.engine.shared import Shared, SharedInputs, StepInputs
from kdbench.errors import UserError
from kdbench.utils.device import Span


@final
class StepGraphs:
    """One graph for what the runs of a lockstep share, and one for each run."""

    def __init__(self, shared: SharedInputs, outcomes: Outcomes) -> None:
        self._inputs_of_steps, self._outcomes = shared, outcomes
        self.drop()

    def drop(self) -> None:
        """Forget the graphs: the epoch is over."""
        self._warm: set[str] = set()
        self._for: list[str] = []
        self._index = torch.empty(0)
        self._inputs = StepInputs({}, {})
        self._making = torch.cuda.CUDAGraph()
        self._updates: dict[str, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def replay(self, step: int, joined: list[Run]) -> bool:
        """Do a step; False where it has to be done as usual first."""
        names = [run.cell.id for run in joined]
        if not self._warm >= set(names):
            self._warm |= set(names)
            return False
        shared = self._inputs_of_steps
        index, inputs = shared.batches.index(step), shared.look_up(step, [run.group for run in joined])
        if names != self._for:
            self._record(index, inputs, joined)
        with Span(shared.device) as making:
            self._index.copy_(index)
            for recorded, new in zip(self._inputs.tensors(), inputs.tensors(), strict=True):
                recorded.copy_(new)
            self._making.replay()
        for run in joined:
            if run.cell.id not in self._updates:
                continue  # it could not be recorded, and has failed
            with self._outcomes.attempt(run):
                graph, values = self._updates[run.cell.id]
                run.begin_step()
                with Span(shared.device) as updating:
                    graph.replay()
                run.count(values.clone(), [making, updating])
        return True

    def _record(self, index: Tensor, inputs: StepInputs, joined: list[Run]) -> None:
        self._index, self._inputs = index.clone(), inputs.clone()
        self._making, self._updates = torch.cuda.CUDAGraph(), {}
        with torch.cuda.graph(self._making):
            shared = self._inputs_of_steps.make(self._index, self._inputs)
        self._making.replay()  # so that the runs are recorded on real values
        for run in joined:
            with self._outcomes.attempt(run):
                self._updates[run.cell.id] = self._record_run(run, shared[run.group])
        self._for = [run.cell.id for run in joined]

    def _record_run(self, run: Run, shared: Shared) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(run.generator)
        try:
            with torch.cuda.graph(graph):
                values = run.update(shared.images, self._index, shared.teacher)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{run.cell} cannot be one CUDA graph ({reason}): leave --compile out") from None
        return graph, values
