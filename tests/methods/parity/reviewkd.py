"""ReviewKD.

The teacher's maps are the same whether it offers them before the ReLU or, having none, as stages. The stem map, whose
stored gradient is zero, is not read. The original trainer counts epochs from 0 where we count from 1, so its warm-up
factor is put into the weight here.
"""

from __future__ import annotations

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup
from torch import Tensor

from kdbench.functional import warmup_factor
from kdbench.methods import reviewkd
from kdbench.net import Outputs
from parity._wiring import Values, gradients, load_weights, net_of, state, total, weight_leaves


def levels(case: Case, prefix: str, pooled: str, *, grad: bool) -> dict[str, Tensor]:
    """Stages without the stem, and the pooled embedding, by stored name."""
    count = len([key for key in case.arrays if key.startswith(f"in.{prefix}.")])
    maps = {f"{prefix}.{i}": case.tensor(f"in.{prefix}.{i}", grad=grad) for i in range(1, count)}
    return maps | {pooled: case.tensor(f"in.{pooled}", grad=grad)}


def numbered(prefix: str, values: list[Tensor]) -> Values:
    for number, value in enumerate(values):
        yield f"{prefix}{number}", value


def is_original(case: Case) -> bool:
    return case.file.startswith("orig_")


def factor_from_epoch_0(case: Case) -> float:
    """The warm-up factor of the original trainer."""
    return min(case.value("hp.epoch") / case.value("hp.warmup_epochs"), 1)


def settings(case: Case) -> reviewkd.ReviewKD.Config:
    original = is_original(case)
    return reviewkd.ReviewKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        review_weight=case.value("hp.review_weight") * (factor_from_epoch_0(case) if original else 1),
        warmup=0 if original else case.value("hp.warmup_epochs") / 240,
        student_preact=bool(case.arrays.get("hp.student_preact", False)),
    )


def hcl(case: Case) -> Values:
    fused = case.group("in.fused.", grad=True)
    losses = [reviewkd.hcl_loss(fused[key], case.tensor(f"in.feats_t.{key}")) for key in fused]
    yield from numbered("out.hcl_per_level.", losses)
    loss = torch.stack(losses).sum()
    yield "out.total", loss
    loss.backward()
    yield from gradients({f"fused.{key}": value for key, value in fused.items()})


def with_teachers_maps(case: Case, teacher_preact: bool) -> Values:
    student = levels(case, "feats_s", "pooled_s", grad=True)
    *student_stages, student_pooled = student.values()
    *teacher_stages, teacher_pooled = levels(case, "preact_feats_t", "pooled_t", grad=False).values()
    logits, targets = case.tensor("in.logits_s", grad=True), case.tensor("in.target")
    config, epoch = settings(case), int(case.value("hp.epoch"))
    nets = [
        net_of(student_stages, width=student_pooled.shape[1], preact=config.student_preact),
        net_of(teacher_stages, width=teacher_pooled.shape[1], preact=teacher_preact),
    ]
    method = reviewkd.ReviewKD(config, stub_setup(nets[0], nets[1])).to(case.dtype)
    load_weights(case, method)
    parts = {"stages": tuple(student_stages)}
    if config.student_preact:
        parts = {"preact": parts["stages"], "stages": tuple(maps.detach() + 1 for maps in student_stages)}
    teacher_part = {"preact" if teacher_preact else "stages": tuple(teacher_stages)}
    terms = method.loss(
        Outputs("student", logits=logits, penultimate=student_pooled, **parts),
        Outputs("teacher", penultimate=teacher_pooled, **teacher_part),
        stub_batch(targets, epoch=max(epoch, 1)),
    )
    loss = total(terms)
    yield "out.total", loss
    yield "out.ce", terms["ce"] / config.ce_weight
    yield "out.review_weighted", terms["review"]
    factor = factor_from_epoch_0(case) if is_original(case) else warmup_factor(epoch / 240, config.warmup)
    yield "out.warmup_factor", factor
    loss.backward()
    stem = {"feats_s.0": case.tensor("in.feats_s.0", grad=True)}
    yield from gradients(student | {"logits_s": logits} | stem | weight_leaves(method))
    yield from state(method)

    goals = [*teacher_stages, teacher_pooled[:, :, None, None]]
    fused = method.fuse(
        [*student_stages, student_pooled[:, :, None, None]], [(goal.shape[2], goal.shape[3]) for goal in goals]
    )
    losses = [reviewkd.hcl_loss(ours, goal) for ours, goal in zip(fused, goals, strict=True)]
    yield from numbered("out.fused.", fused)
    yield from numbered("out.hcl_per_level.", losses)
    yield "out.hcl", torch.stack(losses).sum()


def computed(case: Case) -> Values:
    if case.name == "reviewkd/hcl_sizes":
        yield from hcl(case)
        return
    for teacher_preact in (True, False):
        yield from with_teachers_maps(case, teacher_preact)
