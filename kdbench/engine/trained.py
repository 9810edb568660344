"""From a record to its network: a student or a teacher as a plain module, its weights checked against their hash.

Legend: ``B`` images, ``H`` x ``W`` pixels, ``K`` classes, ``D`` width of the penultimate features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kdbench.data.decoding.crops import CropRules
from kdbench.data.decoding.decode import as_rgb, central_pixels
from kdbench.engine.described import Described, described, no_size
from kdbench.errors import UserError
from kdbench.experiment.cell import TeacherRef
from kdbench.experiment.registry import load_method, wraps_student
from kdbench.experiment.rule_groups import AugmentationRules
from kdbench.experiment.settings import resolve_settings
from kdbench.method import Setup
from kdbench.models import build_backbone
from kdbench.models.weights import load_weights, read_weights, weights_hash
from kdbench.net import Net
from kdbench.utils.streams import seeded
from kdbench.utils.values import argument, shown, whole_number


@final
class Trained(nn.Module):
    """A trained network in eval mode: normalised images in, logits out.

    A method's parts that belong to the network at test time, as simkd's projector and its teacher's classifier, are
    in it.

    Parameters
    ----------
    net
        The network with its weights.
    rules
        How images become what it is given.
    """

    mean: Tensor
    """Of each channel of images in [0, 1], ``(1, 3, 1, 1)``."""
    std: Tensor
    """Standard deviation of each channel, ``(1, 3, 1, 1)``."""

    def __init__(self, net: Net, rules: AugmentationRules) -> None:
        super().__init__()
        self.name = net.name
        """The network's registered name."""
        self.image_size = net.image_size
        """Height and width of what it is given, in pixels."""
        self.num_classes = net.num_classes
        """``K``."""
        self.width = net.width
        """``D``."""
        self.backbone = net.backbone
        """The network below and with its classifier, whose state dict is that of its checkpoint."""
        self.register_buffer("mean", net.mean, persistent=False)
        self.register_buffer("std", net.std, persistent=False)
        self.rules = seen_rules(rules, net.image_size)
        """Rules by which other images are resized and cut; None where they are as they come, or none."""
        self._every_image = rules.crop == "resized"
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, K)`` of normalised images ``(B, 3, H, W)``."""
        logits: Tensor = self.backbone.head()(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate features ``(B, D)``, the input of the classifier, of normalised images."""
        return self.backbone.features(images, maps=False).penultimate

    def preprocess(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> Tensor:
        """Return images as evaluation gives them to the network, normalised, on its device.

        Under a protocol for image files, each is resized and its centre is cut out as the protocol says. Under one for
        small images it is taken as it is; one of another size is resized, bilinearly, to the shorter side of the
        network's images, and its centre is cut out.

        Parameters
        ----------
        images
            An image of Pillow's or a list of them, or uint8 ``(3, H, W)`` or ``(B, 3, H, W)``.

        Returns
        -------
        Tensor
            Float32 ``(B, 3, H, W)``, also for one image.

        Raises
        ------
        TypeError
            They are of another type or shape.
        ValueError
            They have another size, and the network's images are not square; or pixels whose range is unknown.
        """
        pixels = self._pixels(images)
        return self.normalise(pixels.to(self.mean.device).float().div_(255))

    def normalise(self, images: Tensor) -> Tensor:
        """Return images ``(B, 3, H, W)`` in [0, 1] less the mean, over the standard deviation."""
        return (images - self.mean) / self.std

    def _pixels(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> Tensor:
        """Return uint8 pixels ``(B, 3, H, W)`` of the network's size."""
        if isinstance(images, Tensor):
            batch = images[None] if images.ndim == 3 else images
            if batch.dtype != torch.uint8 or batch.ndim != 4 or batch.shape[1] != 3:
                raise TypeError(f"images must be uint8 (3, H, W) or (B, 3, H, W), not {images.dtype} {images.shape}")
            if tuple(batch.shape[2:]) == self.image_size and not self._every_image:
                return batch
            images = [Image.fromarray(each) for each in batch.permute(0, 2, 3, 1).cpu().numpy()]
        listed = [images] if isinstance(images, Image.Image) else list(images)
        if not listed or not all(isinstance(each, Image.Image) for each in listed):
            raise TypeError("images must be an image of Pillow's, a list of them, or a uint8 tensor")
        return torch.from_numpy(np.stack([self._seen(as_rgb(each)) for each in listed]))

    def _seen(self, image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        """Return what the network is given of an image, ``(3, H, W)``."""
        if (image.height, image.width) == self.image_size and not self._every_image:
            return np.asarray(image).transpose(2, 0, 1)
        if self.rules is None:
            own, other = ("{} x {}".format(*size) for size in (self.image_size, (image.height, image.width)))
            raise ValueError(f"an image is {other} pixels, and {self.name} takes {own}: resize it")
        return central_pixels(CropRules.of(self.rules), image)


def seen_rules(rules: AugmentationRules, image_size: tuple[int, int]) -> AugmentationRules | None:
    """Return the rules by which images of any size become a network's; None where those are not square."""
    height, width = image_size
    if rules.crop == "resized" and rules.size == height == width:
        return rules
    if height != width:
        return None
    return AugmentationRules(
        crop="resized",
        flip=False,
        size=height,
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        interpolation="bilinear",
        evaluation_size=height,
    )


def load(path: str | Path, *, image_size: tuple[int, int] | None = None) -> Trained:
    """Return a trained network as a plain module in eval mode, on the CPU.

    Parameters
    ----------
    path
        Folder of a finished cell or of a teacher, or the ``record.json`` or ``teacher.json`` in it.
    image_size
        Height and width of its images, which records of kdbench 0.1 do not hold for npz files.

    Returns
    -------
    Trained
        Logits are ``net(net.preprocess(images))``, penultimate features ``net.features(net.preprocess(images))``.

    Raises
    ------
    kdbench.UserError
        There is no such network, or its weights are not those that its record describes.
    """
    source = described(Path(path), no_size if image_size is None else lambda *_: _size(image_size))
    return Trained(read_net(source), source.protocol.rules.augmentation)


def _size(image_size: tuple[int, int]) -> tuple[int, int]:
    with argument("image_size"):
        try:
            height, width = image_size
        except (TypeError, ValueError):
            raise ValueError(f"must be (HEIGHT, WIDTH), not {shown(image_size)}") from None
        return whole_number(height, 1), whole_number(width, 1)


def read_net(source: Described) -> Net:
    """Build a network and load its weights.

    Raises
    ------
    UserError
        They are missing or damaged, or not those of the record or card.
    """
    try:
        weights = read_weights(source.weights)
    except UserError as error:
        raise UserError(f"{error}: copy it from where {source.name} was trained, or train it again") from None
    if weights_hash(weights) != source.weights_hash:
        raise UserError(
            f"{source.weights} is not the file that its record describes: copy it from where {source.name} was "
            "trained, or train it again"
        )
    build = partial(_build, source)
    net = build(source.input.num_classes or _num_classes(build, weights))
    load_weights(net, weights, str(source.weights))
    return net.eval()


def _build(source: Described, num_classes: int) -> Net:
    """Build a network with fresh weights: the student, or what its method made of it."""
    size, (mean, std) = source.input.image_size, source.input.normalisation
    with seeded(0, "load"):  # what is drawn is replaced, and the user's stream stays where it is
        net = Net(
            source.network,
            build_backbone(source.network, num_classes, size),
            mean=mean,
            std=std,
            image_size=size,
        )
        return _wrapped(net, source.config, source) if source.config and is_wrapped(source) else net


def is_wrapped(source: Described) -> bool:
    """Return whether a network is what a method built around the student of its name."""
    return source.config is not None and wraps_student(source.config["method"]["name"], source.config["method"])


def _wrapped(student: Net, config: Mapping[str, Any], source: Described) -> Net:
    """Return the network that a cell's method trains around its student."""
    name, protocol = config["method"]["name"], source.protocol
    teacher = TeacherRef(**config["teacher"]) if config["teacher"] else None
    chosen = {key: value for key, value in config["method"].items() if key not in {"name", "version"}}
    network = teacher.network if teacher else None
    resolved = resolve_settings(name, dataset=protocol.dataset, teacher=network, student=student.name, chosen=chosen)
    setup = Setup(
        student=student,
        teacher=_stand_in(teacher.network, student, source.teacher_side) if teacher and teacher.is_network else None,
        labels=torch.arange(student.num_classes),
        epochs=protocol.epochs,
        steps_per_epoch=1,
        group_size=protocol.rules.schedule.images_together,
    )
    return load_method(name)(resolved.config, setup).wrap(setup)


def _stand_in(network: str, student: Net, side: int | None) -> Net:
    """Return a network of a teacher's shapes; what a method takes over of its weights is in the student's file."""
    size = (side, side) if side else student.image_size
    backbone = build_backbone(network, student.num_classes, size)
    return Net(network, backbone, mean=(0.0,) * 3, std=(1.0,) * 3, image_size=size)


def _num_classes(build: Callable[[int], Net], weights: Mapping[str, Tensor]) -> int:
    """Return for how many classes weights are: the length of what has another one in a network for two."""
    two = {name: value for name, value in build(2).backbone.state_dict().items() if name in weights}
    lengths = {len(weights[name]) for name, value in two.items() if value.shape != weights[name].shape and value.ndim}
    return lengths.pop() if len(lengths) == 1 else 2
