"""Steps as CUDA graphs, for networks so small that launching their kernels takes longer than running them.

A graph is recorded from one step and replayed for the others, so a step must be the same work each time: nothing
waits for the device, shapes are fixed, state changes in place. Numbers that come from the epoch are constants in a
graph; therefore each epoch records its own. Its first step, and a last batch of another size, run as usual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from kdbench.engine.run import Run
from kdbench.errors import UserError
from kdbench.net import Outputs
from kdbench.utils.device import Span

if TYPE_CHECKING:
    from kdbench.engine.lockstep import Inputs, Lockstep


@final
class StepGraphs:
    """One graph for what the runs of a lockstep share, and one for each run."""

    def __init__(self, lockstep: Lockstep) -> None:
        self._lockstep = lockstep
        self.drop()

    def drop(self) -> None:
        """Forget the graphs: the epoch is over."""
        self._warm: set[str] = set()
        self._for: list[str] = []
        self._index = torch.empty(0)
        self._inputs: Inputs = {}, {}
        self._shared = torch.cuda.CUDAGraph()
        self._own: dict[str, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def replay(self, step: int, joined: list[Run]) -> bool:
        """Do a step; False where it has to be done as usual first."""
        names = [run.cell.id for run in joined]
        if not self._warm >= set(names):
            self._warm |= set(names)
            return False
        lockstep = self._lockstep
        device = lockstep.options.device
        index, inputs = lockstep.batches.index(step), lockstep.inputs(step, joined)
        if names != self._for:
            self._record(index, inputs, joined)
        with Span(device) as sharing:
            self._index.copy_(index)
            for mine, new in zip(_tensors(self._inputs), _tensors(inputs), strict=True):
                mine.copy_(new)
            self._shared.replay()
        for run in joined:
            if run.cell.id not in self._own:
                continue  # it could not be recorded, and has failed
            with lockstep.attempt(run):
                graph, values = self._own[run.cell.id]
                run.begin_step()
                with Span(device) as own:
                    graph.replay()
                run.spans += [sharing, own]
                run.count(values.clone())
        return True

    def _record(self, index: Tensor, inputs: Inputs, joined: list[Run]) -> None:
        ids, looked_up = inputs
        self._index = index.clone()
        self._inputs = (
            {plan: values.clone() for plan, values in ids.items()},
            {g: ({part: v.clone() for part, v in found.items()}, span) for g, (found, span) in looked_up.items()},
        )
        self._shared, self._own = torch.cuda.CUDAGraph(), {}
        with torch.cuda.graph(self._shared):
            shared = self._lockstep.share(self._index, self._inputs)
        self._shared.replay()  # so that the runs are recorded on real values
        for run in joined:
            with self._lockstep.attempt(run):
                images, outputs, _ = shared[run.group]
                self._own[run.cell.id] = self._record_run(run, images, outputs.narrowed(run.needs))
        self._for = [run.cell.id for run in joined]

    def _record_run(self, run: Run, images: Tensor, outputs: Outputs) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(run.generator)
        try:
            with torch.cuda.graph(graph):
                values = run.update(images, self._index, outputs)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{run.cell} cannot be one CUDA graph ({reason}): leave --compile out") from None
        return graph, values


def _tensors(inputs: Inputs) -> list[Tensor]:
    ids, looked_up = inputs
    return [*ids.values(), *(values for found, _ in looked_up.values() for values in found.values())]
