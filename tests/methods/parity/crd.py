"""CRD: three steps, with the stored negatives in place of drawn ones.

Z is kept as its logarithm, where the reference keeps it among K, T and the momentum in one buffer of the default dtype:
in the float32 case the two differ by rounding, within that case's tolerance.
"""

from __future__ import annotations

from unittest import mock

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import nn

from kdbench.methods import crd
from kdbench.net import Outputs
from parity._wiring import (
    Values,
    cross_entropy,
    gradients,
    kl_per_image,
    net_of,
    stored_name,
    task_settings,
    total,
    weight_leaves,
)

NAMES = {"student_embed.": "embed_s.linear.", "teacher_embed.": "embed_t.linear."}


def built(case: Case) -> crd.CRD:
    """The method with the stored weights and banks."""
    config = crd.CRD.Config(
        **task_settings(case),
        crd_weight=case.value("hp.crd_weight"),
        feat_dim=int(case.value("hp.feat_dim")),
        num_negatives=int(case.value("hp.K")),
        temperature=case.value("hp.T"),
        momentum=case.value("hp.momentum"),
        epsilon=case.value("hp.eps"),
    )
    nets = [net_of(width=case.arrays[f"in.s1.f_{side}"].shape[1]) for side in "st"]
    labels = torch.arange(int(case.value("hp.n_data"))) % 10
    method = crd.CRD(config, stub_setup(nets[0], nets[1], labels)).to(case.dtype)
    assert case.value("buf_before.Z_v1") == case.value("buf_before.Z_v2") == -1
    state = method.state_dict()
    for key, value in state.items():
        if key.endswith("_bank"):
            state[key] = case.tensor("buf_before.memory_v1" if "student" in key else "buf_before.memory_v2")
            assert state[key].shape == value.shape
        elif not key.endswith("_log_z"):
            state[key] = case.tensor(f"w.{stored_name(key, NAMES)}")
    method.load_state_dict(state)
    return method


def step(case: Case, method: crd.CRD, prefix: str) -> Values:
    """One step's values; afterwards the banks have moved."""
    columns = case.tensor(f"in.{prefix}contrast_index")
    index = case.tensor(f"in.{prefix}index")
    assert torch.equal(columns[:, 0], index)
    f_s, logits_s = (case.tensor(f"in.{prefix}{key}", grad=True) for key in ("f_s", "logits_s"))
    f_t, logits_t, targets = (case.tensor(f"in.{prefix}{key}") for key in ("f_t", "logits_t", "target"))
    banks = {"v1": method.teacher_bank.clone(), "v2": method.student_bank.clone()}
    method.zero_grad()
    with mock.patch.object(crd, "draw_negatives", return_value=columns[:, 1:]):
        result = method.loss(
            Outputs("student", logits=logits_s, penultimate=f_s),
            Outputs("teacher", logits=logits_t, penultimate=f_t),
            stub_batch(targets, index=index),
        )
    assert isinstance(result, tuple)
    terms, rows = result
    loss = total(terms)
    yield f"out.{prefix}total", loss
    loss.backward()
    method.remember(rows)
    yield from gradients({"f_s": f_s, "logits_s": logits_s} | weight_leaves(method, NAMES), f"grad.{prefix}")

    config = method.config
    yield f"out.{prefix}ce", cross_entropy(logits_s, targets).mean()
    yield f"out.{prefix}kl", kl_per_image(logits_s, logits_t, config.kd_temperature).mean()
    yield f"out.{prefix}crd", terms["crd"] / config.crd_weight
    embeddings = {
        "v1": nn.functional.normalize(method.student_embed(f_s), dim=1),
        "v2": nn.functional.normalize(method.teacher_embed(f_t), dim=1),
    }
    log_zs = {"v1": method.student_log_z, "v2": method.teacher_log_z}
    for number, side in (("v1", "s"), ("v2", "t")):
        yield f"out.{prefix}embed_{side}", embeddings[number]
        scores = crd.contrast_scores(embeddings[number], banks[number], columns, config.temperature)
        log_ratios = scores - log_zs[number]
        yield f"out.{prefix}ratio_{number}", log_ratios.exp()
        yield f"out.{prefix}loss_{side}", crd.nce_loss(log_ratios, int(case.value("hp.n_data")), config.epsilon)


def computed(case: Case) -> Values:
    method = built(case)
    for number in range(1, 4):
        yield from step(case, method, f"s{number}.")
        yield f"buf_after{number}.memory_v1", method.student_bank
        yield f"buf_after{number}.memory_v2", method.teacher_bank
        yield f"buf_after{number}.Z_v1", method.student_log_z.exp()
        yield f"buf_after{number}.Z_v2", method.teacher_log_z.exp()
