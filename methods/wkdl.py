"""WKD-L: the Wasserstein distance of the two networks' softmaxes over the other classes, where like classes are near.

It is the cost of the transport plan that Sinkhorn's iterations find; to move probability between two classes costs the
less, the more alike the teacher's features of their training images are (centred kernel alignment, CKA). NKD's soft
target stands beside it. The plan is regularised: for equal softmaxes, its cost and the cost's gradient are not 0.

``cost of two classes = 1 - exp(-sharpness * (1 - CKA))``

Legend: ``B`` images, ``K`` classes.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products
from kdbench.method import (
    Batch,
    Outputs,
    Reads,
    count,
    fraction,
    log,
    non_negative,
    positive,
    temperature,
    weight,
)

from ._class_distances import ClassDistanceMethod
from ._task import TaskMethod
from .nkd import target_loss
from .wkdf import PAPER, decay_factor

FLOOR = 1e-8
"""Added to costs and to what Sinkhorn's iterations divide by."""


def transport_costs(
    student: Tensor, teacher: Tensor, others: Tensor, cost: Tensor, regularization: float, iterations: int
) -> Tensor:
    """Cost of Sinkhorn's plan between two distributions of each image, ``(B,)``.

    The classes that take no part have probability 0, so that all images share one kernel.

    Parameters
    ----------
    student, teacher
        Probabilities ``(B, K)``.
    others
        Which classes take part, ``(B, K)``.
    cost
        ``(K, K)``.
    """
    kernel = (-cost / regularization).exp()
    ours = others.to(student.dtype) / others.sum(dim=1, keepdim=True)
    for _ in range(iterations):
        theirs = teacher / (inner_products(ours, kernel.mT) + FLOOR)
        ours = student / (inner_products(theirs, kernel) + FLOOR)
    return (inner_products(ours, (kernel * cost).mT) * theirs).sum(dim=1)


def transport_loss(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    distances: Tensor,
    *,
    temperature: float,
    sharpness: float,
    regularization: float,
    iterations: int,
) -> Tensor:
    """Cost of the plan between the softmaxes over the other classes, mean over images.

    Parameters
    ----------
    student, teacher
        Logits ``(B, K)``.
    distances
        ``(K, K)``; ``sharpness`` says how fast the cost rises with them, and 0 that they are the cost.
    """
    others = torch.arange(student.shape[1], device=targets.device) != targets[:, None]
    ours, theirs = (
        functional.softmax((at_least_float32(logits) / temperature).masked_fill(~others, -torch.inf), 1)
        for logits in (student, teacher)
    )
    cost = torch.relu(1 - (-sharpness * distances).exp() if sharpness else distances) + FLOOR
    return transport_costs(ours, theirs, others, cost, regularization, iterations).mean()


class WKDL(ClassDistanceMethod):
    """Soft target, and transport of probability between the other classes."""

    FAMILY = "logits"
    PAPER = PAPER
    MIN_CLASSES = 3  # of two, only one is left besides the target
    READS = Reads(student={"logits"}, teacher={"logits"})
    DEVIATIONS = (
        "the decay from epoch 150 of 240 is a fraction of training here, so it scales with the number of epochs; the "
        "soft target has weight 1 and no decay, as in the authors' code",
        "CKA pairs the n-th row of one class with the n-th of another, in the order of the training set; the teacher "
        "sees the images without augmentation",
        "there is no squared temperature, and equal softmaxes have a cost and a gradient, as in the authors' code",
    )
    OURS = dict.fromkeys(
        ("logit_weight", "temperature"),
        "the authors state it for resnet32x4>resnet8x4, whose setting is the default, and wrn_40_2>ShuffleNetV1 alone",
    )
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: the authors' for resnet32x4>resnet8x4."""

        logit_weight: float = weight(600.0, search=log(10.0, 1000.0))
        """Weight of the transport cost, which has no squared temperature."""
        temperature: float = temperature(8.0, search=log(1.0, 10.0))
        """Divides the logits of the other classes."""
        distances: Literal["maps", "logits", "classifier"] = "maps"
        """By what classes are alike: CKA of the teacher's last maps or logits, or the cosine of classifier weights."""
        sharpness: float = non_negative(1.0)
        """How fast the cost rises with the distance of classes; 0 takes the distance itself."""
        regularization: float = positive(0.05, search=log(0.01, 0.5))
        """Weight of the plan's entropy."""
        iterations: int = count(10)
        """Sinkhorn's iterations; the gradient goes through all of them."""
        decay_start: float = fraction(150 / 240)
        """Fraction of training after which the weight falls to 0 along a cosine; 1 switches the decay off."""

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        cost = transport_loss(
            student.logits,
            teacher.logits,
            batch.targets,
            self.distances,
            temperature=config.temperature,
            sharpness=config.sharpness,
            regularization=config.regularization,
            iterations=config.iterations,
        )
        factor = config.logit_weight * decay_factor(batch.progress, config.decay_start)
        return {"target": target_loss(student.logits, teacher.logits, batch.targets), "transport": factor * cost}
