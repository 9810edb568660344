"""PCKD: five terms over four rotations of each image, two of them weighted by a preview.

An image counts fully while its cross entropy is below a bar that rises during training, and little above it. Follows
the authors' code (commit 610b3e8) where it differs from the paper's figure; the deviations below name the settings for
the other choice. Five terms, each with its switches, make this file longer than those of other methods.

    CE + delta * KD (previewed) + beta * contrast (previewed) + alpha * centre alignment + ff * feature alignment

Legend: ``B`` images, ``V`` views in view-major rows, ``K`` classes, ``D`` penultimate width, ``R = V * B``.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdbench.functional import at_least_float32, cross_entropy, inner_products
from kdbench.method import (
    PLAIN,
    Batch,
    Method,
    Paper,
    PhaseName,
    Reads,
    Setup,
    ViewPlan,
    log,
    positive,
    temperature,
    weight,
)
from kdbench.net import Outputs

from .kd import kl_per_image


def preview_threshold(base: float, progress: float) -> float:
    """Return the bar for the difficulty: ``base ** epoch`` of a training of 240 epochs, at the same progress."""
    return math.pow(base, 240 * progress)


def preview_weights(losses: Tensor, threshold: float) -> Tensor:
    """Weights ``(B,)`` from cross entropies ``(B,)``; the gradient reaches those of hard images.

    1 where the difficulty, a loss over the batch's mean, is at most the threshold; else ``exp(-difficulty**2)``.
    """
    difficulty = losses / losses.mean().clamp_min(1e-12)
    return torch.where(difficulty <= threshold, torch.ones_like(losses), (-(difficulty**2)).exp())


def category_contrast(anchors: Tensor, labels: Tensor, temperature: float, base_temperature: float) -> Tensor:
    """Supervised contrastive loss of each anchor ``(A, K)`` against the others with its label ``(A,)``; ``(A,)``.

    Khosla et al., NeurIPS 2020, with inner products of unnormalised class scores: the mean over positives of
    ``-log p(positive | anchor)``, times ``temperature / base_temperature``. Every label must occur twice.
    """
    scores = inner_products(anchors, anchors) / temperature
    scores = scores - scores.detach().amax(dim=1, keepdim=True)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    log_sum = (scores.exp().masked_fill(itself, 0).sum(dim=1) + 1e-7).log()
    positive = (labels[:, None] == labels) & ~itself
    positive_mean = (scores * positive).sum(dim=1) / positive.sum(dim=1)
    return (log_sum - positive_mean) * (temperature / base_temperature)


def class_scores(embedding: Tensor, weight: Tensor) -> Tensor:
    """Inner products ``(R, K)`` of normalised embeddings ``(R, D)`` with class centres ``(K, D)``, as they are."""
    return inner_products(functional.normalize(at_least_float32(embedding), dim=1), weight)


def feature_alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """``2 - 2 * cosine`` of features ``(R, D)``, mean over rows."""
    cosine = functional.cosine_similarity(at_least_float32(student), at_least_float32(teacher), dim=1)
    return 2 - 2 * cosine.mean()


def centre_alignment(student: tuple[Tensor, Tensor | None], teacher: tuple[Tensor, Tensor | None]) -> Tensor:
    """Mean squared difference of two classifiers, weight ``(K, D)`` and bias ``(K,)``, over all their entries."""
    entries = [torch.cat([part.flatten() for part in parts if part is not None]) for parts in (student, teacher)]
    return functional.mse_loss(entries[0], entries[1].detach())


class PCKD(Method):
    """Preview-weighted distillation and category contrast, with centre and feature alignment."""

    FAMILY = "contrast"
    PAPER = Paper(
        "Preview-based Category Contrastive Learning for Knowledge Distillation",
        "Ding, Wu, Dong, Li, Qin, Gan, Nie", "IEEE TCSVT", 2025, "2410.14143",
    )  # fmt: skip
    READS = Reads(student={"logits", "penultimate"}, teacher={"logits", "penultimate"})
    OURS = {
        "delta": "not published: the one published command leaves it at 0, which is the tables' row without L_KD; "
        "1 is the usual weight of the KL beside a full cross entropy, as in CRD+KD",
    }
    DEVIATIONS = (
        "figure: features against class centres; code and default: SupCon among vectors of class scores",
        "figure: the teacher's feature enters the contrast; code and default: only its classifier's weight does",
        "the contrast is scaled by contrast_temperature / base_temperature = 57, as in the code",
        "the two halves of a view are added, not averaged (halves = 'mean')",
        "the preview is differentiable in the KD term and constant in the contrast (detach_preview = true)",
        "centre alignment is left out where the classifiers' shapes differ (on_mismatch = 'error')",
        "the preview's bar follows the fraction of training; in the code the epoch: equal for 240 epochs",
        "layers of the MLP head are those of the code's relatives: the file is missing from the authors'",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' code and its one published command (wrn_40_2>wrn_16_2); delta is ours."""

        alpha: float = weight(1.0)
        """Weight of centre alignment."""
        beta: float = weight(0.05, search=log(0.005, 0.5))
        """Weight of the category contrast."""
        delta: float = weight(1.0, search=log(0.1, 10.0))
        """Weight of the previewed KL divergence; 0 is the tables' PCKD without L_KD."""
        ff: float = weight(20.0, search=log(2.0, 200.0))
        """Weight of feature alignment."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Temperature of the KL divergence."""
        contrast_temperature: float = positive(4.0)
        """Divides the inner products of class scores."""
        base_temperature: float = positive(0.07)
        """The contrast is multiplied by contrast_temperature over this."""
        halves: Literal["add", "mean"] = "add"
        """How a view's two contrasts, by the student's and the teacher's classifier, are joined."""
        preview_base: float = positive(1.005)
        """The preview's bar is this to the power of the epoch, in a training of 240 epochs."""
        detach_preview: bool = False
        """Keep the preview constant in the KL divergence too."""
        views: Literal[1, 4] = 4
        """4: each image in four rotations; 1: the plain view only."""
        on_mismatch: Literal["skip", "error"] = "skip"
        """What centre alignment does where the classifiers' shapes differ."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        nets = (setup.student, setup.teacher)
        wide, out = (net.width for net in nets)
        shapes = [{name: entry.shape for name, entry in net.backbone.head().named_parameters()} for net in nets]
        self.same_shape = shapes[0] == shapes[1]
        if not self.same_shape and self.config.alpha > 0 and self.config.on_mismatch == "error":
            names = f"{nets[0].name} (width {wide}) and {nets[1].name} (width {out})"
            raise ValueError(f"classifiers of {names} cannot be aligned: set alpha = 0, or on_mismatch = 'skip'")
        if self.config.beta > 0:
            self.student_embed = nn.Linear(wide, wide)
            self.teacher_embed = nn.Linear(wide, out)
        if self.config.ff > 0:
            head = (nn.Linear(wide, 16 * out), nn.BatchNorm1d(16 * out), nn.ReLU(), nn.Linear(16 * out, out))
            self.align = nn.Sequential(*head)
            self.min_images = 2 if self.config.views == 1 else 1

    @classmethod
    def views(cls, config: Config) -> ViewPlan:
        """Four rotations, or the plain view alone."""
        return ViewPlan((0, 1, 2, 3)) if config.views == 4 else PLAIN

    @classmethod
    def reads(cls, config: Config, phase: PhaseName) -> Reads:
        """Return the teacher's logits for the KL divergence, and its features for their alignment."""
        logits, penultimate = Reads(teacher={"logits"}), Reads(teacher={"penultimate"})
        own = Reads(student=cls.READS.student)
        return own | (logits if config.delta > 0 else own) | (penultimate if config.ff > 0 else own)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms; those of weight 0 are not computed."""
        config = self.config
        plain = slice(batch.size)
        # The preview's bar is one of plain cross entropies; without smoothing they are the task's loss too.
        losses = cross_entropy(student.logits[plain], batch.targets)
        task = batch.cross_entropy(student.logits[plain]) if batch.label_smoothing else losses
        preview = preview_weights(losses, preview_threshold(config.preview_base, batch.progress))
        terms = {"ce": task.mean()}
        if config.delta > 0:
            weights = preview.detach() if config.detach_preview else preview
            kl = kl_per_image(student.logits[plain], teacher.logits[plain], config.temperature)
            terms["kd"] = config.delta * (weights * kl).mean()
        if config.beta > 0:
            per_view = self._contrast(student, teacher, batch.targets)
            terms["contrast"] = config.beta * (preview.detach().repeat(config.views) * per_view).mean()
        if config.alpha > 0 and self.same_shape:
            pairs = (student.weight, student.bias), (teacher.weight, teacher.bias)
            terms["centre"] = config.alpha * centre_alignment(*pairs)
        if config.ff > 0:
            terms["feature"] = config.ff * feature_alignment(self.align(student.penultimate), teacher.penultimate)
        return terms

    def _contrast(self, student: Outputs, teacher: Outputs, targets: Tensor) -> Tensor:
        """Category contrast of each row, ``(R,)``: the student's embedding by both classifiers."""
        config = self.config
        by_student = class_scores(self.student_embed(student.penultimate), student.weight)
        by_teacher = class_scores(self.teacher_embed(student.penultimate), teacher.weight.detach())
        anchors, labels = torch.cat([by_student, by_teacher]), targets.repeat(2 * config.views)
        losses = category_contrast(anchors, labels, config.contrast_temperature, config.base_temperature)
        halves = losses.view(2, -1)
        return halves.sum(dim=0) if config.halves == "add" else halves.mean(dim=0)
