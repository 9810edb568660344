"""CTKD."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import ctkd
from kdbench.net import Outputs
from parity._wiring import Values, gradients, kl_per_image, logit_sides, net_of, task


def computed(case: Case) -> Values:
    if case.name == "ctkd/schedule":
        factors = [ctkd.reversal(epoch / 240, case.value("hp.decay_loops") / 240) for epoch in case.arrays["in.epoch"]]
        yield "out.lambda", torch.tensor(factors, dtype=torch.float64)
        return
    student, teacher, targets = logit_sides(case)
    assert (case.value("hp.decay_max"), case.value("hp.decay_min")) == (0, -1)
    config = ctkd.CTKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kl_weight"),
        min_temperature=case.value("hp.t_start"),
        temperature_range=case.value("hp.t_end"),
        warmup=case.value("hp.decay_loops") / 240,
    )
    assert config == ctkd.CTKD.Config()
    net = net_of(num_classes=student.shape[1])
    method = ctkd.CTKD(config, stub_setup(net, net)).double()
    method.load_state_dict({"logit": case.tensor("w.global_T")[0]})
    batch = stub_batch(targets, epoch=int(case.value("hp.epoch")))
    yield "out.lambda", ctkd.reversal(batch.progress, config.warmup)
    yield "out.temperature", method.temperature()
    yield "out.kl", kl_per_image(student, teacher, method.temperature()).mean()
    terms = method.loss(Outputs("student", logits=student), Outputs("teacher", logits=teacher), batch)
    yield from task(case, terms, {"logits_s": student})
    assert method.logit.grad is not None
    yield from gradients({"w.global_T": method.logit})
