"""DOT: an optimiser, two gradients a parameter."""

from __future__ import annotations

from parity_files import Case

from kdbench.experiment.registry import load_method
from parity._split import optimised
from parity._wiring import Values


def computed(case: Case) -> Values:
    method = load_method("dot")
    groups = method.term_groups(method.Config(delta=case.value("hp.delta")))
    yield from optimised(case, groups, ("task", "kd"))
