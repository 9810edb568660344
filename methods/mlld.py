"""MLLD: the student matches the teacher's softmax at five temperatures, and its correlations within a batch.

The correlations are those of a batch's images and of its classes. Each image is seen plain and strongly augmented;
images and classes of which the teacher is surer than of the median one are left out. Follows the authors' code, in
which that masking only scales the losses by the share of what it keeps, and in which the strong view's divergences at
two temperatures are the plain view's. With ``masks = "select"``, what was evidently meant; with ``standardize``, LSKD
(see kd).

Legend: ``B`` images, ``K`` classes.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products
from kdbench.method import Batch, Method, Outputs, Paper, Reads, ViewPlan, among, choice, log, temperature, weight

from .kd import kl_per_image, standardized

OTHER_TEMPERATURES = (3.0, 5.0, 2.0, 6.0)
"""Temperatures beside the chosen one."""
NUM_STRONG = 3
"""Temperatures, in this order, at which the authors' code distils the strong view; at the others, the plain one."""


def median(values: Tensor) -> Tensor:
    """Median of ``(N,)``, a scalar; halfway between the middle two where N is even."""
    ordered = values.sort().values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def up_to_median(values: Tensor) -> Tensor:
    """1 where a value of ``(N,)`` is at most the median, else 0."""
    return (values <= median(values)).to(values.dtype)


def class_errors(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Squared error of each class's correlations ``(K, K)``, summed over the other class and over K: ``(K,)``.

    Correlations are inner products of the columns of the softmax of logits ``(B, K)`` over the temperature.
    """
    matrices = [inner_products(p.T, p.T) for p in _softmaxes(student, teacher, temperature)]
    return (matrices[0] - matrices[1]).square().sum(dim=1) / len(matrices[0])


def image_errors(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Squared error of each image's correlations ``(B, B)``, summed over the other image and over B: ``(B,)``."""
    matrices = [inner_products(p, p) for p in _softmaxes(student, teacher, temperature)]
    return (matrices[0] - matrices[1]).square().sum(dim=1) / len(matrices[0])


def _softmaxes(student: Tensor, teacher: Tensor, temperature: float) -> list[Tensor]:
    return [functional.softmax(at_least_float32(logits) / temperature, dim=1) for logits in (student, teacher)]


class MLLD(Method):
    """Cross entropy and KL of two views, and the correlations of a batch's images and classes."""

    FAMILY = "logits"
    PAPER = Paper("Multi-level Logit Distillation", "Jin, Wang, Lin", "CVPR", 2023)
    READS = Reads(student={"logits"}, teacher={"logits"})
    VIEWS = ViewPlan(num_strong=1)
    DEVIATIONS = (
        "the authors' masks multiply losses that are means already, so they scale by the share kept, about 1/2; the "
        'numbers come from that code. With masks = "select" each image and class has its own weight of 0 or 1',
        "the authors' strong view is distilled at the first three temperatures, and at 2 and 6 the plain view once "
        'more; with masks = "select", the strong view at all five',
        "the strong view's correlations, which the authors' code computes and leaves out of the total, are left out",
        "both views go through the networks in one batch; the authors' student sees them one after the other, so that "
        "its batch norms have the statistics of one view each",
        "published numbers come from training of 240 to 960 epochs at a learning rate of 0.025 (MobileNetV2 and "
        "ShuffleNets 0.01 or less): they are not those of the other methods' protocol",
        "LSKD's published MLLD+LS is standardize = true, temperature = 2, kd_weight = 9; the correlations keep the "
        "raw logits",
    )
    config: "Config"

    class Config(Method.Config):
        """Defaults: the authors' for all CIFAR-100 pairs."""

        ce_weight: float = weight(0.1)
        """Weight of the cross entropy, a sum over the two views."""
        kd_weight: float = weight(0.9, search=log(0.1, 10.0))
        """Weight of all other terms; the KL divergences include the squared temperature."""
        temperature: float = temperature(4.0, search=log(1.0, 10.0))
        """Divides the logits of both networks, as do 3, 5, 2 and 6; the terms are summed over temperatures."""
        masks: Literal["scale", "select"] = "scale"
        """What comes of leaving out the sure half: a factor on the whole as in the authors' code, or a selection."""
        standardize: bool = choice(False, search=among(False, True))
        """Divide z-scores of the logits in the KL divergences (LSKD)."""

    def weights(self, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of images ``(B,)`` and of classes ``(K,)``, from the teacher's plain logits ``(B, K)``."""
        probabilities = functional.softmax(at_least_float32(teacher), dim=1)
        images, classes = (up_to_median(sure) for sure in (probabilities.amax(dim=1), probabilities.sum(dim=0)))
        if self.config.masks == "scale":
            return images.mean().expand_as(images), classes.mean().expand_as(classes)
        return images, classes

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config, temperatures = self.config, (self.config.temperature, *OTHER_TEMPERATURES)
        plain, strong = zip(student.logits.split(batch.size), teacher.logits.split(batch.size), strict=True)
        prepared = standardized if config.standardize else at_least_float32
        plain_kl, strong_kl = (
            [kl_per_image(prepared(ours), prepared(theirs), temperature) for temperature in temperatures]
            for ours, theirs in (plain, strong)
        )
        if config.masks == "scale":
            strong_kl[NUM_STRONG:] = plain_kl[NUM_STRONG:]
        images, classes = self.weights(plain[1])
        ce = [batch.cross_entropy(logits).mean() for logits in (plain[0], strong[0])]
        return {
            "ce": config.ce_weight * torch.stack(ce).sum(),
            "plain": config.kd_weight * (images * torch.stack(plain_kl)).mean(dim=1).sum(),
            "strong": config.kd_weight * torch.stack(strong_kl).mean(dim=1).sum(),
            "class": config.kd_weight * (classes * torch.stack([class_errors(*plain, t) for t in temperatures])).sum(),
            "batch": config.kd_weight * (images * torch.stack([image_errors(*plain, t) for t in temperatures])).sum(),
        }
