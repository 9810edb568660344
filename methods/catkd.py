"""CAT-KD: the student's class activation maps, average-pooled and each of unit length, should equal the teacher's.

The map of a class is the feature map weighted by the classifier's weights of the class; its mean over positions is the
logit of the class without the bias. The student that is trained, evaluated and saved has no bias, as the authors' has.

``loss = mean over images, classes and cells of (map / |map| - teacher's map / |teacher's map|)^2``

Legend: ``B`` images, ``K`` classes, ``D`` width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdbench.functional import inner_products, pooled_to
from kdbench.method import Batch, Net, Outputs, Paper, Reads, Setup, among, choice, count, log, non_negative, weight

from ._maps import map_shapes
from ._task import TaskMethod


def class_maps(features: Tensor, classifier: Tensor) -> Tensor:
    """Class activation maps ``(B, K, H, W)``, at least float32, of maps ``(B, D, H, W)`` and weights ``(K, D)``."""
    maps = inner_products(classifier, features.flatten(2).mT)
    return maps.view(*maps.shape[:2], *features.shape[2:])


def binarized(maps: Tensor) -> Tensor:
    """Return 1 where a map ``(B, K, H, W)`` exceeds the mean of its absolute values, else 0."""
    return (maps > maps.abs().mean(dim=(2, 3), keepdim=True)).to(maps.dtype)


def unit_maps(maps: Tensor) -> Tensor:
    """Divide each class map ``(B, K, H, W)`` by its length; one that is 0 stays so, with a finite gradient."""
    length = maps.flatten(2).norm(dim=2)[:, :, None, None]
    return maps / torch.where(length > 1e-12, length, 1)


class CATKD(TaskMethod):
    """Squared error between the class activation maps of both networks."""

    FAMILY = "features"
    PAPER = Paper(
        "Class Attention Transfer Based Knowledge Distillation",
        "Guo, Yan, Li, Lin", "CVPR", 2023, "2304.12777",
    )  # fmt: skip
    READS = Reads(student={"map"}, teacher={"map"})
    DEVIATIONS = (
        "the student that is trained, evaluated and saved has no bias in its classifier, as the authors' has; the maps "
        "leave out the teacher's",
        "the paper's CAT, of maps alone, is ce_weight = 0",
        "num_maps are those of the largest teacher logits; the authors' code takes one fewer, and all maps where ties "
        "leave the images with different numbers",
        "a class map of zeros has a gradient that is not divided by its length",
    )
    OURS = {
        "cat_weight": "0.7 to 600 are published, pair by pair; for the others, that of resnet32x4>resnet8x4",
        "num_maps": "all classes, as in every published setting",
    }
    config: "Config"

    class Config(TaskMethod.Config):
        """Defaults: those of the authors' code for resnet32x4>resnet8x4."""

        cat_weight: float = weight(15.0, search=log(0.5, 600.0))
        """Weight of the squared error of the maps."""
        resolution: int = count(2, search=among(2, 4))
        """Rows and columns to which maps are average-pooled."""
        normalize: bool = choice(True)
        """Divide each map by its length, so that all classes count the same."""
        binarize: bool = choice(False)
        """Replace the teacher's maps by 1 where they exceed the mean of their absolute values, and 0 elsewhere."""
        num_maps: int = non_negative(0)
        """Only compare this many classes of an image, those of the largest teacher logits; 0 for all."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        map_shapes("CAT-KD", setup)
        if self.config.num_maps > setup.student.num_classes:
            raise ValueError(
                f"num_maps must be at most the data set's {setup.student.num_classes} classes, not {config.num_maps}"
            )

    def wrap(self, setup: Setup) -> Net:
        """Return the student without the bias of its classifier."""
        setup.student.backbone.head().register_parameter("bias", None)
        return setup.student

    def prepared(self, maps: Tensor) -> Tensor:
        """Pool class maps ``(B, K, H, W)`` to the resolution, and give them unit length if that is wanted."""
        pooled = pooled_to(maps, (self.config.resolution, self.config.resolution))
        return unit_maps(pooled) if self.config.normalize else pooled

    def distill(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        config = self.config
        maps = class_maps(teacher.map, teacher.weight)
        ours = self.prepared(class_maps(student.map, student.weight))
        theirs = self.prepared(binarized(maps) if config.binarize else maps)
        if config.num_maps:
            largest = maps.mean(dim=(2, 3)).topk(config.num_maps, dim=1).indices[:, :, None, None]
            ours, theirs = (each.take_along_dim(largest, dim=1) for each in (ours, theirs))
        return {"cat": config.cat_weight * functional.mse_loss(ours, theirs)}
