"""ITRD; the weight of the whole, 1, is a factor of both terms."""

from __future__ import annotations

from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import itrd
from kdbench.net import Outputs
from parity._wiring import Values, gradients, load_weights, net_of, total, weight_leaves

NAMES = {"embed.": "embed.linear."}


def computed(case: Case) -> Values:
    logits, ours = (case.tensor(f"in.{key}", grad=True) for key in ("logits_s", "pooled_s"))
    theirs = case.tensor("in.pooled_t")
    assert case.value("hp.kd_weight") == 1
    config = itrd.ITRD.Config(
        ce_weight=case.value("hp.ce_weight"),
        correlation_weight=case.value("hp.lambda_corr"),
        mutual_weight=case.value("hp.lambda_mutual"),
        alpha=case.value("hp.alpha_it"),
    )
    nets = [net_of(width=features.shape[1]) for features in (ours, theirs)]
    method = itrd.ITRD(config, stub_setup(*nets)).to(case.dtype)
    load_weights(case, method, NAMES)
    terms = method.loss(
        Outputs("student", logits=logits, penultimate=ours),
        Outputs("teacher", penultimate=theirs),
        stub_batch(case.tensor("in.target")),
    )
    yield "out.ce", terms["ce"] / config.ce_weight
    yield "out.correlation", terms["correlation"] / config.correlation_weight
    yield "out.mutual", terms["mutual"] / config.mutual_weight
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    yield from gradients({"logits_s": logits, "pooled_s": ours} | weight_leaves(method, NAMES))
