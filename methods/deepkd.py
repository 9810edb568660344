"""DeepKD: DOT with three momenta: those of the task, of the target class and of the other classes.

KD's divergence is split as in DKD, and each part has a gradient and a momentum of its own; one forward pass is followed
by three backward passes. The defaults are "DeepKD with KD", where the term of the other classes keeps the weight that
it has in KD, the teacher's doubt of the label: as in the authors' code, its batch mean. "DeepKD with DKD" is
``doubt = "none"``, ``beta = 8``, ``ce_weight = 1`` and ``warmup = 0.0833``.

Legend: ``B`` images, ``K`` classes.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from kdbench.functional import at_least_float32, warmup_factor
from kdbench.method import (
    Batch,
    Method,
    Outputs,
    Paper,
    Reads,
    Setup,
    TermGroup,
    choice,
    fraction,
    linear,
    log,
    non_negative,
    temperature,
    weight,
)

from .dkd import nckd_per_image, tckd_loss
from .kd import kl_per_image

Doubt = Literal["batch", "image", "none"]
_MASKED = -1e4
"""Logit of a class that does not take part, in both networks."""


def top_nckd_per_image(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float, top_k: int) -> Tensor:
    """Divergence among the teacher's ``top_k`` largest classes without the label, of each image, ``(B,)``.

    The label may be one of the ``top_k``. Logits are ``(B, K)``; the divergence is that of KD.
    """
    classes = torch.arange(teacher.shape[1], device=teacher.device)
    ours, theirs = (
        at_least_float32(logits).masked_fill(classes == targets[:, None], _MASKED) for logits in (student, teacher)
    )
    top = teacher.argsort(dim=1, descending=True, stable=True)[:, :top_k]  # of equal logits the lower class
    return kl_per_image(ours.gather(1, top), theirs.gather(1, top), temperature)


def doubt_of(teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """What the teacher gives to other classes than the label, ``(B,)`` in [0, 1], from logits ``(B, K)``."""
    return 1 - (at_least_float32(teacher) / temperature).softmax(dim=1).gather(1, targets[:, None]).squeeze(1)


class DeepKD(Method):
    """KD or DKD whose task, target-class and non-target-class terms have momenta of their own."""

    FAMILY = "logits"
    PAPER = Paper(
        "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer", "Huang, Song, Zhang, Ren",
        "NeurIPS", 2025, "2505.15133",
    )  # fmt: skip
    MIN_CLASSES = 3  # of two, only one is left besides the target: its term is always 0
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        'the paper gives the task a momentum of its own, task_momentum = "task"; the authors\' code gives it the '
        "target's, and so do the defaults: the printed numbers are those of the code",
        "with KD the code multiplies the batch means of the teacher's doubt and of the term of the other classes; "
        'their product for each image, as KD has it, is doubt = "image"',
        "the paper's mask of classes, which grows over training, is not in the authors' code; a fixed number of "
        "classes is, top_k, and every published setting leaves it off",
        "weight decay is part of the target's momentum alone, as in the authors' code",
        "two of the authors' settings for DKD train for 480 epochs, and those for ImageNet have a cosine schedule",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' setting with KD for resnet32x4>ShuffleNetV1."""

        ce_weight: float = weight(0.1, search=log(0.05, 1.0))
        """Weight of the cross entropy; it is not warmed up."""
        alpha: float = weight(1.0)
        """Weight of the target-class term (TCKD)."""
        beta: float = weight(1.0)
        """Weight of the non-target-class term (NCKD)."""
        doubt: Doubt = choice("batch")
        """What the non-target-class term is multiplied with: the teacher's doubt of the label, as its mean over the
        batch or image by image, or none."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks."""
        warmup: float = fraction(0.0)
        """Fraction of training over which alpha and beta rise linearly from 0."""
        top_k: int = non_negative(0)
        """Number of the teacher's largest classes to which the non-target-class term is restricted, the label left out
        where it is one of them; 0 for all classes."""
        target_delta: float = choice(-0.075)
        """What the target-class term's momentum is above the protocol's."""
        non_target_delta: float = choice(0.075, search=linear(-0.05, 0.095))
        """What the non-target-class term's momentum is above the protocol's."""
        task_delta: float = choice(0.075)
        """What the task's momentum is above the protocol's, where task_momentum says so."""
        task_momentum: Literal["target", "task"] = choice("target")
        """Whose momentum the task has: that of the target-class term, or its own."""

        def check(self) -> None:
            for name in ("target_delta", "non_target_delta", "task_delta"):
                if not -1 < getattr(self, name) < 1:
                    raise ValueError(f"{name} must be above -1 and below 1, not {getattr(self, name):g}")
            if self.top_k == 1:
                raise ValueError("top_k must be 0 or at least 2, not 1: the label may be the teacher's largest class")

    @classmethod
    def term_groups(cls, config: Any) -> tuple[TermGroup, ...]:
        target, others, task = config.target_delta, config.non_target_delta, config.task_delta
        return (
            TermGroup(
                terms=frozenset({"ce"}),
                momentum=target if config.task_momentum == "target" else task,
                partial_momentum=(task + target + others) / 3,
                weight_decay="no",
            ),
            TermGroup(terms=frozenset({"nckd"}), momentum=others, partial_momentum=target, weight_decay="no"),
            TermGroup(terms=frozenset({"tckd"}), momentum=target, partial_momentum=others),
        )

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.top_k > setup.student.num_classes:
            raise ValueError(
                f"top_k must be at most the number of classes, {setup.student.num_classes}, not {config.top_k}: "
                "set a smaller top_k"
            )

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config, inputs = self.config, (student.logits, teacher.logits, batch.targets, self.config.temperature)
        factor = warmup_factor(batch.progress, config.warmup)
        others = top_nckd_per_image(*inputs, config.top_k) if config.top_k else nckd_per_image(*inputs)
        doubt = doubt_of(teacher.logits, batch.targets, config.temperature)
        weighted = {"batch": doubt.mean() * others, "image": doubt * others, "none": others}[config.doubt]
        return {
            "ce": config.ce_weight * batch.cross_entropy(student.logits).mean(),
            "tckd": factor * config.alpha * tckd_loss(*inputs),
            "nckd": factor * config.beta * weighted.mean(),
        }
