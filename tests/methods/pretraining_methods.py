"""What tests of methods with pre-training share."""

from __future__ import annotations

import torch
from stub_nets import stub_batch, stub_setup

from kdbench.functional import cross_entropy
from kdbench.method import Method
from kdbench.methods.kd import kl_per_image
from kdbench.net import Net, Outputs

NO_OUTPUTS = Outputs("student")
ANY_BATCH = stub_batch(torch.arange(5))


def check_main_stage_is_the_task_alone(kind: type[Method], student: Net, teacher: Net) -> None:
    """Cross entropy, and KD's divergence where it has a weight; what else the networks show is not read."""
    logits = [torch.randn(5, 10, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    both = Outputs("student", logits=logits[0]), Outputs("teacher", logits=logits[1])
    ce, kl = cross_entropy(logits[0], ANY_BATCH.targets).mean(), kl_per_image(*logits, 4.0).mean()
    for weight, expected in ((0.0, {"ce": ce}), (0.5, {"ce": ce, "kd": 0.5 * kl})):
        method = kind(kind.Config(kd_weight=weight), stub_setup(student, teacher))
        assert kind.reads(method.config, "training").teacher == ({"logits"} if weight else set())
        terms = method.loss(*both, ANY_BATCH)
        assert list(terms) == list(expected)
        torch.testing.assert_close(terms, expected)
