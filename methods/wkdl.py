"""WKD-L: the Wasserstein distance of the two networks' softmaxes over the other classes, where like classes are near.

It is the cost of the transport plan that Sinkhorn's iterations find; to move probability between two classes costs the
less, the more alike the teacher's features of their training images are (centred kernel alignment, CKA). NKD's soft
target stands beside it. The plan is regularised: for equal softmaxes, its cost and the cost's gradient are not 0.

``cost of two classes = 1 - exp(-sharpness * (1 - CKA))``

Legend: ``B`` images, ``K`` classes, ``N`` rows of features of each class, ``D`` wide.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products
from kdbench.method import (
    Batch,
    Outputs,
    Part,
    Reads,
    Setup,
    count,
    fraction,
    log,
    non_negative,
    positive,
    temperature,
    weight,
)

from ._task import TaskMethod
from .nkd import target_loss
from .wkdf import PAPER, decay_factor

FLOOR = 1e-8
"""Added to costs and to what Sinkhorn's iterations divide by."""
CHUNK = 64
"""Classes that a class is compared with at once: bounds memory."""


def cka_distances(features: Tensor) -> Tensor:
    """One minus the linear CKA of each two classes, ``(K, K)``, from features ``(K, N, D)``.

    Rows of the same number are compared, which is an arbitrary pairing of images, as in the authors' code.
    """
    centred = at_least_float32(features) - at_least_float32(features).mean(dim=1, keepdim=True)
    alike = centred.new_zeros(len(centred), len(centred))
    for first, rows in enumerate(centred):
        for others, place in zip(centred[first:].split(CHUNK), alike[first, first:].split(CHUNK), strict=True):
            place.copy_(inner_products(rows.mT, others.mT).square().sum(dim=(1, 2)))
    length = alike.diagonal().sqrt()
    alike = alike.triu() + alike.triu(1).mT
    return 1 - alike / (length[:, None] * length).clamp_min(torch.finfo(alike.dtype).tiny)


def rows_by_class(features: Iterable[Tensor], labels: Tensor, num_classes: int) -> Tensor:
    """Features of images ``(B, ...)``, batch by batch, as ``(K, N, D)``: of each class, as many as the smallest has.

    Rows of a map ``(B, D, H, W)`` are its images' positions.

    Raises
    ------
    ValueError
        A class has no images.
    """
    images = labels.bincount(minlength=num_classes)
    if not images.all():
        raise ValueError(
            f"WKD-L compares classes by their training images, but class {int(images.argmin())} has none: set "
            'distances = "classifier"'
        )
    maps = torch.cat([each[:, :, None] if each.ndim == 2 else each.flatten(2) for each in features])
    places = [(labels == label).nonzero()[: int(images.min()), 0] for label in range(num_classes)]
    return torch.stack([maps[place.to(maps.device)].mT.flatten(0, 1) for place in places])


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


class WKDL(TaskMethod):
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
    distances: Tensor

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

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        teacher = setup.teacher
        if self.config.distances == "maps" and not teacher.shapes:
            raise ValueError(f'{teacher.name} shows no feature maps: set distances = "logits"')
        weights = functional.normalize(teacher.backbone.head().weight.detach(), dim=1)
        self.register_buffer("distances", 1 - inner_products(weights, weights))

    @classmethod
    def surveys(cls, config: Any) -> frozenset[Part]:
        """Return what the distances of classes are computed from."""
        parts: dict[str, frozenset[Part]] = {"maps": frozenset({"stages"}), "logits": frozenset({"logits"})}
        return parts.get(config.distances, frozenset())

    def survey(self, outputs: Iterable[Outputs], labels: Tensor) -> Mapping[str, Tensor]:
        """Return the distances of classes by CKA."""
        maps = self.config.distances == "maps"
        features = (each.stages[-1] if maps else each.logits for each in outputs)
        return {"distances": cka_distances(rows_by_class(features, labels, len(self.distances)))}

    def costs(self) -> Tensor:
        """Return the cost of moving probability between two classes, ``(K, K)``."""
        sharpness = self.config.sharpness
        distances = 1 - (-sharpness * self.distances).exp() if sharpness else self.distances
        return torch.relu(distances) + FLOOR

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config, targets = self.config, batch.targets
        others = torch.arange(student.logits.shape[1], device=targets.device) != targets[:, None]
        ours, theirs = (
            functional.softmax((at_least_float32(side.logits) / config.temperature).masked_fill(~others, -torch.inf), 1)
            for side in (student, teacher)
        )
        cost = transport_costs(ours, theirs, others, self.costs(), config.regularization, config.iterations).mean()
        factor = config.logit_weight * decay_factor(batch.progress, config.decay_start)
        return {"target": target_loss(student.logits, teacher.logits, targets), "transport": factor * cost}
