"""Any classifier of timm's as a backbone, if it ends in one linear layer and shows its feature maps."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any, final

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.models.parts import same
from kdbench.net import Backbone, Features

STEMS = ("stem", "conv_stem", "act1", "bn1", "layer0", "features.norm0", "features.conv0")
"""How timm calls the module behind a first map that belongs to no stage."""


@final
class TimmBackbone(Backbone):
    """A network of timm's; there is no ``stem`` and no ``preact``.

    ``map`` is the network's last feature map where its classifier sees the mean of that map and nothing else.

    ``stages`` are the last map at each spatial size among those that ``forward_intermediates`` gives, shallow to
    deep: the stages of a convolutional network, the map of the last block alone for a plain vision transformer. A
    stem that timm lists as a map of its own is left out. Stages that small images shrink to one size count once.

    A network that is built for a fixed image size is built for ``image_size``. Where its patches do not divide the
    images, they are made smaller: the largest size that divides both sides and gives at least 2 x 2 patches.

    Parameters
    ----------
    name
        timm's name, e.g. ``resnet18``; a tag of pretrained weights, as records of earlier versions have, loads none.
    num_classes
        Number of classes.
    image_size
        Height and width of the images.
    weights
        File with weights that timm publishes under ``name`` with its tag: timm loads them, fits them to the size of the
        images and draws a classifier for another number of classes. Weights are fresh without it.

    Raises
    ------
    UserError
        For an unknown name, and for a network that is not one linear layer over features that it shows or that
        does not take such images, with the reason.
    """

    PREFIX = "model."

    def __init__(self, name: str, num_classes: int, image_size: tuple[int, int], weights: Path | None = None) -> None:
        super().__init__()
        if not timm.is_model(name):
            close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
            hint = f"; did you mean {', '.join(f'timm:{match}' for match in close)}?" if close else ""
            raise UserError(f"timm {timm.__version__} has no network {name!r}{hint}")
        model, options = _create(name, num_classes, image_size, weights)
        self.model: Any = model
        self.options = options
        """What `timm.create_model` was given besides the name and the number of classes."""
        self._indices: list[int] | None = None
        self._positions: tuple[int, int] | None = None
        """The two dimensions of the last map that are positions; None where there is no ``map``."""
        self._map_absence = ""
        training = self.training
        self.eval()
        with torch.no_grad():
            reason = self._check_classifier() or self._find_stages(image_size) or self._check_logits(image_size)
            if not reason:
                self._find_map(image_size)
        self.train(training)
        if reason:
            raise UserError(f"timm:{name} cannot be used: {reason}")

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Return the classifier's input and, with ``maps``, the stages."""
        if maps:
            final_map, stages = self.model.forward_intermediates(images, indices=self._indices)
        else:
            final_map, stages = self.model.forward_features(images), ()
        penultimate = self.model.forward_head(final_map, pre_logits=True)
        last = None if self._positions is None else final_map.movedim(self._positions, (2, 3))
        return Features(penultimate, tuple(stages), None, None, last)

    def head(self) -> nn.Linear:
        """Return the model's classifier."""
        classifier = self.model.get_classifier()
        assert isinstance(classifier, nn.Linear)
        return classifier

    def map_absence(self) -> str:
        """Why there is no ``map``, where there is none."""
        return self._map_absence

    def _check_classifier(self) -> str:
        classifier = self.model.get_classifier()
        if isinstance(classifier, tuple | list | nn.ModuleList):
            return f"it has {len(classifier)} classifiers, e.g. one for a distillation token"
        if not isinstance(classifier, nn.Linear):
            return f"its classifier is {type(classifier).__name__}, not a linear layer"
        if not callable(getattr(self.model, "forward_intermediates", None)):
            return "it has no forward_intermediates, which shows the feature maps"
        return ""

    def _find_stages(self, image_size: tuple[int, int]) -> str:
        """Set the indices of the maps that are stages."""
        _, maps = self.model.forward_intermediates(_images(image_size))
        if not all(isinstance(m, Tensor) and m.ndim == 4 for m in maps):
            return "its forward_intermediates does not give maps of four dimensions"
        info = list(getattr(self.model, "feature_info", ()))
        has_stem = len(info) == len(maps) > 1 and str(info[0]["module"]).startswith(STEMS)
        last = {m.shape[2:]: index for index, m in enumerate(maps) if index or not has_stem}
        self._indices = sorted(last.values())
        return ""

    def _find_map(self, image_size: tuple[int, int]) -> None:
        """Find the positions of the map whose mean is the classifier's input, or why there is none."""
        final_map = self.model.forward_features(_images(image_size))
        if final_map.ndim != 4:
            self._map_absence = "it has tokens, not a feature map, before its classifier"
            return
        penultimate = self.model.forward_head(final_map, pre_logits=True)
        # Some networks, such as Swin, have their channels last.
        for positions in ((2, 3), (1, 2)):
            if same(final_map.mean(dim=positions), penultimate):
                self._positions = positions
                return
        self._map_absence = "there are layers between its last feature map and its classifier, beside the mean"

    def _check_logits(self, image_size: tuple[int, int]) -> str:
        """Compare with the model's own forward pass: the classifier's input, and the logits."""
        images = _images(image_size)
        inputs: list[Tensor] = []
        hook = self.head().register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        expected = self.model(images)
        hook.remove()
        if not isinstance(expected, Tensor) or len(inputs) != 1:
            return f"its forward pass gives {type(expected).__name__} from {len(inputs)} calls of the classifier"
        for maps in (False, True):
            penultimate = self.features(images, maps=maps).penultimate
            if not same(penultimate, inputs[0]) or not same(self.head()(penultimate), expected):
                source = "forward_intermediates" if maps else "forward_features"
                return f"its logits are not its classifier applied to the features of {source} and forward_head"
        return ""


def _create(
    name: str, num_classes: int, image_size: tuple[int, int], weights: Path | None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network that takes images of the size, with options only where it needs them; return these as well."""
    height, width = image_size
    loading: dict[str, Any] = {"pretrained": False}
    if weights is not None:
        loading = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights), "custom_load": False}}

    def attempt(size: tuple[int, int] | None, **options: Any) -> tuple[nn.Module | None, str]:
        return _attempt(name, num_classes, size, options | (loading if size else {"pretrained": False}))

    options: dict[str, Any] = {"img_size": image_size}
    model, problem = attempt(image_size, **options)
    if "img_size" in problem:
        options = {}
        model, problem = attempt(image_size)
    default = model or attempt(None)[0]
    patch = None if default is None else _patch_size(default)
    if patch is not None and (height % patch[0] or width % patch[1]):
        problem = problem or f"its patches of {patch[0]}x{patch[1]} do not divide them"
        largest = min(*patch, height // 2, width // 2)
        smaller = next(p for p in range(largest, 0, -1) if height % p == 0 == width % p)
        options = {"img_size": image_size, "patch_size": smaller}
        model, _ = attempt(image_size, **options)
    if model is None:
        raise UserError(f"timm:{name} cannot be built for images of {height}x{width}: {problem}")
    return model, options


def _patch_size(model: nn.Module) -> tuple[int, int] | None:
    """Return the size of a network's patches, if it has some that lie side by side."""
    embed = next((module for module in model.modules() if isinstance(module, PatchEmbed)), None)
    if embed is None or embed.patch_size != embed.proj.stride:
        return None
    height, width = embed.patch_size
    return height, width


def _attempt(
    name: str, num_classes: int, image_size: tuple[int, int] | None, options: dict[str, Any]
) -> tuple[nn.Module | None, str]:
    """Build a network and run it on images of the size, if one is given. Return it, or the problem in one line."""
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            model: nn.Module = timm.create_model(name, num_classes=num_classes, **options)
            if image_size is not None:
                model.eval()(_images(image_size))
    except Exception as error:  # a network refuses a size with whatever fails first
        return None, " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
    return model.train(), ""


def _images(image_size: tuple[int, int]) -> Tensor:
    return torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(0))
