"""FT: the paraphraser's pre-training, then the factors of the last stage."""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import ft
from kdbench.net import Outputs
from parity._wiring import Values, gradients, load_weights, logit_sides, net_of, state, task, total, weight_leaves

NAMES = {
    "translator.": "translator.encoder.",
    "paraphraser.": "paraphraser.encoder.",
    "decoder.": "paraphraser.decoder.",
}


def computed(case: Case) -> Values:
    ours, theirs = case.tensor("in.feats_s.3", grad=True), case.tensor("in.feats_t.3")
    logits, teacher_logits, targets = logit_sides(case)
    config = ft.FT.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kl_weight"),
        kd_temperature=case.value("hp.kl_T"),
        ft_weight=case.value("hp.kd_weight"),
        paraphrase_rate=case.value("hp.k"),
    )
    assert (case.value("hp.p1"), case.value("hp.p2")) == (2, 1)
    student, teacher = net_of([ours]), net_of([theirs])
    method = ft.FT(config, stub_setup(student, teacher)).to(case.dtype)
    load_weights(case, method, NAMES)
    teacher_sees = Outputs("teacher", logits=teacher_logits, stages=(theirs,))

    pretraining = method.pretrain(student)
    batch = stub_batch(torch.arange(5))
    loss = total(pretraining.loss(Outputs("student"), teacher_sees.narrowed({"stages"}), batch))
    yield "out.reconstruction_mse", loss
    loss.backward()
    yield from gradients(weight_leaves(method, NAMES), "grad_reconstruction.")
    yield "out.reconstruction", method.decoder(method.paraphraser(theirs))
    method.zero_grad()

    terms = method.loss(Outputs("student", logits=logits, stages=(ours,)), teacher_sees, stub_batch(targets))
    yield "out.ft", terms["ft"] / config.ft_weight
    yield from task(case, terms, {"logits_s": logits, "feats_s.3": ours} | weight_leaves(method, NAMES))
    yield from state(method, {"": "", "translator.": "translator.encoder."})
    yield "out.factor_s", method.translator(ours)
    yield "out.factor_t", method.paraphraser(theirs)
