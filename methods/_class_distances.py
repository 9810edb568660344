"""How far classes are from each other for a teacher: by the features of their training images, or by its classifier.

Features are compared by centred kernel alignment (CKA), in bounded memory: the teacher is run again in place of keeping
what does not fit.

Legend: ``B`` images, ``K`` classes, ``M`` images and ``N`` rows of features of each class, ``D`` wide.
"""

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import at_least_float32, inner_products
from kdbench.method import Net, Outputs, Part, Setup

from ._task import TaskMethod

PARTS: dict[str, frozenset[Part]] = {"maps": frozenset({"stages"}), "logits": frozenset({"logits"})}
"""Parts of the teacher's outputs from which distances are computed; those of the classifier need none."""

HELD = 2**30
"""Bytes of features that the classes take up whose likeness is computed in one pass over the others."""


def cka_distances(rows_from: Callable[[int], Iterable[Tensor]], num_classes: int, held: int = HELD) -> Tensor:
    """One minus the linear CKA of each two classes, ``(K, K)``.

    Rows of the same number are compared, which is an arbitrary pairing of images, as in the authors' code.

    Parameters
    ----------
    rows_from
        Gives the features ``(N, D)`` of a class and of each later one, and is called again for each pass.
    held
        Bytes of features that are kept; one class is, however large it is.
    """
    alike: list[list[Tensor]] = [[] for _ in range(num_classes)]
    first = 0
    while first < num_classes:
        block: list[Tensor] = []
        for rows in rows_from(first):
            features = at_least_float32(rows)
            features = features - features.mean(dim=0)
            if (len(block) + 1) * features.nbytes <= held or not block:
                block.append(features)
            for row, mine in zip(alike[first:], block, strict=False):
                row.append(inner_products(mine.mT, features.mT).square().sum())
        first += len(block)
    products = torch.stack([functional.pad(torch.stack(row), (num_classes - len(row), 0)) for row in alike])
    length = products.diagonal().sqrt()
    products = products.triu() + products.triu(1).mT
    return 1 - products / (length[:, None] * length).clamp_min(torch.finfo(products.dtype).tiny)


def first_of_classes(labels: Tensor, num_classes: int) -> Tensor:
    """Places ``(K, M)`` of the first images of each class, of as many as the smallest has.

    Raises
    ------
    ValueError
        A class has no images.
    """
    images = labels.bincount(minlength=num_classes)
    if not images.all():
        raise ValueError(
            f"WKD compares classes by their training images, but class {int(images.argmin())} has none: set "
            'distances = "classifier"'
        )
    return torch.stack([(labels == label).nonzero()[: int(images.min()), 0] for label in range(num_classes)])


def rows_by_class(features: Iterable[Tensor], num_images: int) -> Iterator[Tensor]:
    """Features ``(N, D)`` of each class in turn, from those of its images ``(B, ...)``, batch by batch.

    Rows of a map ``(B, D, H, W)`` are its images' positions.

    Parameters
    ----------
    num_images
        Of each class.
    """
    waiting = None
    for each in features:
        maps = each[:, :, None] if each.ndim == 2 else each.flatten(2)
        waiting = maps if waiting is None else torch.cat([waiting, maps])
        while len(waiting) >= num_images:
            yield waiting[:num_images].mT.flatten(0, 1)
            waiting = waiting[num_images:]


def surveyed_distances(
    distances: str, outputs: Callable[[Tensor], Iterable[Outputs]], labels: Tensor, num_classes: int
) -> Tensor:
    """Return the distances ``(K, K)`` of classes by CKA, from what the teacher says of their training images."""
    places = first_of_classes(labels, num_classes)

    def rows_from(first: int) -> Iterator[Tensor]:
        of_images = outputs(places[first:].flatten())
        features = (each.stages[-1] if distances == "maps" else each.logits for each in of_images)
        return rows_by_class(features, places.shape[1])

    return cka_distances(rows_from, num_classes)


def classifier_distances(teacher: Net, distances: str) -> Tensor:
    """Return one minus the cosine of each two classes' weights in the classifier, ``(K, K)``.

    Raises
    ------
    ValueError
        The distances are to be those of maps, which the teacher does not show.
    """
    if distances == "maps" and not teacher.shapes:
        raise ValueError(f'{teacher.name} shows no feature maps: set distances = "logits"')
    weights = functional.normalize(teacher.backbone.head().weight.detach(), dim=1)
    return 1 - inner_products(weights, weights)


class ClassDistanceMethod(TaskMethod, abc.ABC):
    """A method that knows how far classes are from each other for the teacher, by its setting ``distances``."""

    config: Any
    distances: Tensor

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        self.register_buffer("distances", classifier_distances(setup.teacher, self.config.distances))

    @classmethod
    def surveys(cls, config: Any) -> frozenset[Part]:
        return PARTS.get(config.distances, frozenset())

    def survey(self, outputs: Callable[[Tensor], Iterable[Outputs]], labels: Tensor) -> Mapping[str, Tensor]:
        return {"distances": surveyed_distances(self.config.distances, outputs, labels, len(self.distances))}
