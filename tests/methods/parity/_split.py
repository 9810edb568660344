"""What the trainer's optimiser makes of stored gradients, which are kept apart by groups of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parity_files import Case
from torch import nn

from kdbench.engine.optim import build_optimizer
from kdbench.experiment.rule_groups import OptimizerRules
from kdbench.method import TermGroup
from parity._wiring import Values


def optimised(case: Case, groups: Sequence[TermGroup], names: Sequence[str]) -> Values:
    """Parameters and momenta after each step; ``names`` are the groups' in the files, in the order of the groups."""
    parameters = [nn.Parameter(value) for _, value in sorted(case.group("in.p.").items())]
    rules = OptimizerRules(
        learning_rate=0.1,
        momentum=case.value("hp.momentum"),
        weight_decay=case.value("hp.weight_decay"),
        nesterov=False,
    )
    optimizer = build_optimizer(rules, parameters, 0.1, groups)
    for step in range(1, int(case.value("hp.steps")) + 1):
        for group, name in zip(optimizer.param_groups, names, strict=True):
            stored: Mapping[str, object] = case.group(f"in.s{step}.grad_{name}.")
            group["lr"] = float(case.arrays["hp.lr"][step - 1])
            for number, tensor in enumerate(group["params"]):
                tensor.grad = stored.get(str(number))
        optimizer.step()
        for number, parameter in enumerate(parameters):
            yield f"out.s{step}.p.{number}", parameter.detach().clone()
            for group, name in zip(optimizer.param_groups, names, strict=True):
                momentum = optimizer.state[group["params"][number]]["momentum_buffer"]
                yield f"out.s{step}.momentum_{name}.{number}", momentum.clone()
