"""DeepKD: losses with the gradient of each term, and an optimiser, three gradients a parameter."""

from __future__ import annotations

import torch
from parity_files import Case

from kdbench.methods import deepkd
from parity._split import optimised
from parity._wiring import Values, gradients, logit_sides, terms_of_logits, total


def computed(case: Case) -> Values:
    if case.file.startswith("optimizer"):
        deltas = {key: case.value(f"hp.delta_{name}") for key, name in DELTAS.items()}
        yield from optimised(case, deepkd.DeepKD.term_groups(deepkd.DeepKD.Config(**deltas)), ("task", "nckd", "tckd"))
        return
    student, _, _ = logit_sides(case)
    assert not case.value("hp.logit_standardization")
    is_dkd = case.file.startswith("dkd")
    config = deepkd.DeepKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        temperature=case.value("hp.T"),
        top_k=int(case.value("hp.top_k")),
        alpha=case.value("hp.alpha") if is_dkd else 1.0,
        beta=case.value("hp.beta") if is_dkd else 1.0,
        warmup=case.value("hp.warmup_epochs") / 240 if is_dkd else 0.0,
        doubt="none" if is_dkd else "batch",
    )
    epoch = int(case.value("hp.epoch")) if is_dkd else 1
    terms = terms_of_logits(case, deepkd.DeepKD, config, student, epoch=epoch)
    for ours, name in (("ce", "task"), ("tckd", "tckd"), ("nckd", "nckd")):
        yield f"out.{name}", terms[ours]
        (gradient,) = torch.autograd.grad(terms[ours], student, retain_graph=True)
        yield f"out.grad_{name}", gradient
    yield "out.total", total(terms)
    total(terms).backward()
    yield from gradients({"logits_s": student})


DELTAS = {"task_delta": "task", "target_delta": "tckd", "non_target_delta": "nckd"}
"""Our settings, and how the files name them."""
