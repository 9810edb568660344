"""MGD; the uniform numbers that the mask comes from are an input."""

from __future__ import annotations

from unittest import mock

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import mgd
from kdbench.net import Outputs
from parity._wiring import Values, gradients, load_weights, net_of, total, weight_leaves

NAMES = {"": "mgd."}


def computed(case: Case) -> Values:
    logits, ours = (case.tensor(f"in.{key}", grad=True) for key in ("logits_s", "feat_s"))
    theirs, draw = case.tensor("in.feat_t"), case.tensor("in.draw")
    config = mgd.MGD.Config(
        ce_weight=case.value("hp.ce_weight"),
        mgd_weight=case.value("hp.alpha"),
        mask_ratio=case.value("hp.mask_ratio"),
    )
    method = mgd.MGD(config, stub_setup(net_of([ours]), net_of([theirs]))).to(case.dtype)
    load_weights(case, method, NAMES)
    with mock.patch.object(torch, "rand", return_value=draw):
        yield "out.mask", mgd.kept_channels(*draw.shape, config.mask_ratio, torch.Generator()).to(case.dtype)
        terms = method.loss(
            Outputs("student", logits=logits, stages=(ours,)),
            Outputs("teacher", stages=(theirs,)),
            stub_batch(case.tensor("in.target")),
        )
    yield "out.ce", terms["ce"] / config.ce_weight
    yield "out.mgd", terms["mgd"] / config.mgd_weight
    yield "out.mgd_weighted", terms["mgd"]
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    yield from gradients({"logits_s": logits, "feat_s": ours} | weight_leaves(method, NAMES))
