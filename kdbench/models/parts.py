"""Any ``nn.Module`` as a backbone: its feature maps and its classifier are seen where they pass by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.net import Backbone, Features


@final
class _Tap:
    """Keeps the last value that passed a module while it is watched; a copy of the module has a tap of its own."""

    def __init__(self) -> None:
        self._watching, self._value = False, None

    def see_output(self, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG002 - a hook
        """Keep what a module returns."""
        if self._watching:
            self._value = output

    def see_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:  # noqa: ARG002 - a hook
        """Keep what a module is given first."""
        if self._watching:
            self._value = inputs[0]

    def watch(self) -> None:
        """Begin to watch."""
        self._watching = True

    def take(self) -> Any:
        """Return the value, and watch and keep it no longer."""
        value, self._watching, self._value = self._value, False, None
        return value


@final
class ModuleBackbone(Backbone):
    """A module that returns logits; hooks at its stages and at its classifier see what methods read.

    There is no ``stem`` and no ``preact``; ``map`` is the last stage where the classifier sees the mean of it.

    Parameters
    ----------
    model
        Its class has ``STAGES``, the paths of the modules whose outputs are its feature maps, shallow to deep. Without
        ``CLASSIFIER``, the path of the linear layer that gives the logits, the only such layer is found.
    num_classes
        Number of classes.
    image_size
        Height and width of the images.

    Raises
    ------
    UserError
        There is no module at a path, its output is no feature map, or the classifier is not clear.
    """

    PREFIX = "model."

    def __init__(self, model: nn.Module, num_classes: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.model = model
        stages: Sequence[str] = getattr(model, "STAGES")  # noqa: B009 - of its class
        modules = dict(model.named_modules(remove_duplicate=False))
        for path in (*stages, *filter(None, [getattr(model, "CLASSIFIER", "")])):
            if path not in modules or not path:
                named = ", ".join(name for name, _ in model.named_children())
                raise UserError(f"there is no module {path!r} in {type(model).__name__}, which has {named}")
        with _dry(self):
            self._classifier = self._find_classifier(num_classes, image_size)
        self._input = _Tap()
        self.head().register_forward_pre_hook(self._input.see_input)
        self._taps = [_Tap() for _ in stages]
        for path, tap in zip(stages, self._taps, strict=True):
            modules[path].register_forward_hook(tap.see_output)
        self._has_map = True
        with _dry(self):
            self._has_map = self._look(stages, image_size)

    def features(self, images: Tensor, *, maps: bool) -> Features:
        """Run the module; return the classifier's input and, with ``maps``, the stages."""
        taps = (self._input, *self._taps) if maps else (self._input,)
        for tap in taps:
            tap.watch()
        self.model(images)
        penultimate, *stages = (tap.take() for tap in taps)
        if penultimate is None or any(stage is None for stage in stages):
            raise UserError(
                f"{type(self.model).__name__} does not run all modules of STAGES, or not its classifier "
                f"{self._classifier!r}: a copy of a network must run the modules of its own"
            )
        return Features(penultimate, tuple(stages), None, None, stages[-1] if maps and self._has_map else None)

    def head(self) -> nn.Linear:
        """Return the linear layer that gives the logits."""
        classifier = self.model.get_submodule(self._classifier)
        assert isinstance(classifier, nn.Linear)
        return classifier

    def map_absence(self) -> str:
        """Why there is no ``map``, where there is none."""
        return "its classifier does not see the mean of its last stage"

    def _find_classifier(self, num_classes: int, image_size: tuple[int, int]) -> str:
        """Return the path of the linear layer whose output the logits are."""
        taps = {path: _Tap() for path, module in self.model.named_modules() if isinstance(module, nn.Linear)}
        for tap in taps.values():
            tap.watch()
        hooks = [self.model.get_submodule(path).register_forward_hook(tap.see_output) for path, tap in taps.items()]
        try:
            logits = self.model(dry_images(self, image_size))
        finally:
            for hook in hooks:
                hook.remove()
        name = type(self.model).__name__
        if not isinstance(logits, Tensor):
            raise UserError(f"{name} returns {type(logits).__name__}: let its forward() return the logits alone")
        if logits.shape != (2, num_classes):
            raise UserError(
                f"the logits of {name} for 2 images of {num_classes} classes are {tuple(logits.shape)}: its last layer "
                "must be nn.Linear(width, num_classes)"
            )
        outputs = {path: tap.take() for path, tap in taps.items()}
        giving = [path for path, value in outputs.items() if isinstance(value, Tensor) and same(value, logits)]
        if classifier := str(getattr(self.model, "CLASSIFIER", "")):
            if classifier not in giving:
                raise UserError(
                    f"the logits of {name} are not the output of its CLASSIFIER {classifier!r}, a linear layer"
                )
            return classifier
        if len(giving) != 1:
            what = f"{len(giving)} linear layers, {', '.join(giving)}" if giving else "no linear layer (nn.Linear)"
            remedy = f'say which with CLASSIFIER = "{giving[-1]}"' if giving else "let it end in one"
            raise UserError(f"the logits of {name} are the output of {what}: {remedy}")
        return str(giving[0])

    def _look(self, paths: Sequence[str], image_size: tuple[int, int]) -> bool:
        """Check the values that are seen; return whether the classifier sees the mean of the last stage.

        Raises
        ------
        UserError
            One is no feature map, or is overwritten later.
        """
        versions: dict[str, int] = {}
        hooks = [
            self.model.get_submodule(path).register_forward_hook(partial(_note_version, versions, path))
            for path in paths
        ]
        try:
            features = self.features(dry_images(self, image_size), maps=True)
        finally:
            for hook in hooks:
                hook.remove()
        for path, value in zip(paths, features.stages, strict=True):
            if not isinstance(value, Tensor) or value.ndim != 4:
                shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise UserError(
                    f"the output of {path!r} is {shape}: a stage is a feature map (images, channels, height, width); "
                    "name other modules in STAGES, or inherit from kdbench.net.Backbone and return maps in features()"
                )
            if value._version != versions[path]:
                raise UserError(
                    f"the output of {path!r} is overwritten after it: let what follows work on a copy, such as "
                    "nn.ReLU() without inplace=True, or name the module that overwrites it in STAGES"
                )
        return same(features.stages[-1].mean((2, 3)), features.penultimate)


def _note_version(versions: dict[str, int], path: str, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
    versions[path] = getattr(output, "_version", 0)


@contextlib.contextmanager
def _dry(network: nn.Module) -> Iterator[None]:
    """Compute as in an evaluation, without gradients."""
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train(training)


def check_features(backbone: Backbone, num_classes: int, image_size: tuple[int, int]) -> None:
    """Make sure that a user's network gives what :class:`kdbench.net.Backbone` describes.

    Raises
    ------
    UserError
        It does not.
    """
    name = type(backbone.model if isinstance(backbone, ModuleBackbone) else backbone).__name__
    head: object = backbone.head()
    _require(isinstance(head, nn.Linear), f"the head() of {name} is {type(head).__name__}, not nn.Linear")
    assert isinstance(head, nn.Linear)
    classes = f"the head() of {name} has {head.out_features} outputs for {num_classes} classes: use num_classes"
    _require(head.out_features == num_classes, classes)
    with _dry(backbone):
        images = dry_images(backbone, image_size)
        plain, features = (backbone.features(images, maps=maps) for maps in (False, True))
    kind = type(features).__name__
    _require(isinstance(features, Features), f"features() of {name} returns {kind}, not kdbench.net.Features")
    _require(
        _shape(features.penultimate) == (2, head.in_features),
        f"the penultimate features of {name} for 2 images are {_shape(features.penultimate)}: its classifier takes "
        f"(2, {head.in_features})",
    )
    # The same module runs in both cases, and may draw in an evaluation, which a check of networks finds.
    agree = isinstance(backbone, ModuleBackbone) or same(plain.penultimate, features.penultimate)
    _require(agree, f"features() of {name} has other penultimate features with maps than without")
    _require(bool(features.stages), f"features() of {name} has no stages: return its feature maps, at least the last")
    _check_maps(name, features)


def _check_maps(name: str, features: Features) -> None:
    singles = {"stem": features.stem, "map": features.map}
    parts = [("a stage", value) for value in features.stages] + [("preact", value) for value in features.preact or ()]
    parts += [(part, value) for part, value in singles.items() if value is not None]
    for part, value in parts:
        shape = _shape(value)
        is_map = len(shape) == 4 and shape[0] == 2
        _require(is_map, f"{part} of {name} is {shape}: it must be (images, channels, height, width)")
    if features.preact is not None:
        alike = list(map(_shape, features.preact)) == list(map(_shape, features.stages))
        _require(alike, f"the preact of {name} has other shapes than its stages: return as many, or None")
    if features.map is not None:
        _require(
            same(features.map.mean((2, 3)), features.penultimate),
            f"the mean over the positions of the map of {name} is not its penultimate features: return no map",
        )


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise UserError(reason)


def dry_images(network: nn.Module, image_size: tuple[int, int], num: int = 2) -> Tensor:
    """Return normalised images ``(num, 3, H, W)`` for a first look, the same ones each time, without drawing."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    if device.type == "meta":
        return torch.zeros(num, 3, *image_size, device="meta")
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, 3, *image_size, generator=generator, device="cpu").to(device)


def same(actual: Tensor, expected: Tensor) -> bool:
    """Return whether two tensors are the same up to rounding; of those without values, whether their shapes are."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    return actual is expected or expected.is_meta or torch.allclose(actual, expected, rtol=1e-4, atol=1e-5)


def _shape(value: object) -> tuple[int, ...]:
    """Return the shape of a tensor; empty for anything else."""
    return tuple(value.shape) if isinstance(value, Tensor) else ()
