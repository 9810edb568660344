"""Networks of users: files in ``networks`` below their folders, and modules of installed packages.

A file ``mine.py`` holds the network ``mine``: a class that inherits from :class:`kdbench.net.Backbone`, or a plain
``nn.Module`` with ``STAGES``. Its ``__init__`` takes ``num_classes`` and, if it wants it, ``image_size``.
"""

from __future__ import annotations

import inspect
import typing
from types import ModuleType
from typing import TYPE_CHECKING

from kdbench.errors import UserError
from kdbench.experiment.own_code import CodeSource

if TYPE_CHECKING:
    from torch import nn

    from kdbench.net import Backbone

_GIVEN = ("num_classes", "image_size")
"""What the ``__init__`` of a network may take."""


def load_network(source: CodeSource) -> type[nn.Module]:
    """Import a user's network.

    Raises
    ------
    UserError
        Its file cannot be imported, or has no usable network; the message says what to do.
    """
    module = source.module()
    candidates = [vars(module)["NETWORK"]] if "NETWORK" in vars(module) else _networks_of(module)
    if flaw := _flaw(candidates[0]) if len(candidates) == 1 else _flaw_of_candidates(candidates):
        raise source.unusable(f"{source.where}: {flaw}")
    return typing.cast("type[nn.Module]", candidates[0])


def version_of(source: CodeSource) -> int:
    """Return the VERSION of a user's network."""
    return getattr(load_network(source), "VERSION", 1)


def build_own(source: CodeSource, num_classes: int, image_size: tuple[int, int]) -> Backbone:
    """Build a user's network with fresh weights, and look at what it computes.

    Raises
    ------
    UserError
        It cannot be built, does not take such images, or does not show what methods read.
    """
    from kdbench.models.parts import ModuleBackbone, check_features  # noqa: PLC0415 - torch
    from kdbench.net import Backbone  # noqa: PLC0415 - torch

    kind = load_network(source)
    values = dict(zip(_GIVEN, (num_classes, image_size), strict=True))
    taken = inspect.signature(kind).parameters
    try:
        model = kind(**{name: value for name, value in values.items() if name in taken})
        backbone = model if isinstance(model, Backbone) else ModuleBackbone(model, num_classes, image_size)
        check_features(backbone, num_classes, image_size)
    except UserError as error:
        raise source.unusable(f"{source.where}: {error}") from None
    except Exception as error:
        height, width = image_size
        raise source.unusable(f"{source.place_of(error)}; with images of {height}x{width}") from error
    return backbone


def _networks_of(module: ModuleType) -> list[object]:
    """Return the networks that a module itself defines: its blocks are none."""
    from torch import nn  # noqa: PLC0415 - commands that only list names need no torch

    from kdbench.net import Backbone  # noqa: PLC0415 - torch

    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    ]
    networks = [value for value in classes if issubclass(value, Backbone) or "STAGES" in dir(value)]
    leaves = [
        value for value in networks if not any(other is not value and issubclass(other, value) for other in networks)
    ]
    alone = classes if len(classes) == 1 else []
    return list(dict.fromkeys(leaves or alone))


def _flaw_of_candidates(candidates: list[object]) -> str:
    """Return why a file without ``NETWORK`` does not show which class is the network."""
    if not candidates:
        return (
            "it defines no network: give the class of the network STAGES, the paths of the modules whose outputs are "
            'its feature maps, such as STAGES = "layer1", "layer2"; or let the name of the file begin with _'
        )
    names = [getattr(candidate, "__name__", "") for candidate in candidates]
    return f"it defines the networks {', '.join(names)}: end it with NETWORK = {names[-1]}"


def _flaw(network: object) -> str:
    """Return why an object cannot serve as a network; empty if it can."""
    from torch import nn  # noqa: PLC0415 - commands that only list names need no torch

    from kdbench.net import Backbone  # noqa: PLC0415 - torch

    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        return f"its NETWORK is {network!r}: it must be a class that inherits from torch.nn.Module"
    name = network.__name__
    if issubclass(network, Backbone):
        if missing := sorted(network.__abstractmethods__):
            return f"{name} has no {' and no '.join(missing)}: define what kdbench.net.Backbone describes"
    elif flaw := _flaw_of_paths(network):
        return flaw
    version = getattr(network, "VERSION", 1)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        return f"{name} has VERSION = {version!r}: it must be a whole number"
    return _flaw_of_arguments(network)


def _flaw_of_arguments(network: type[nn.Module]) -> str:
    """Return why a network cannot be built for a number of classes; empty if it can."""
    name, parameters = network.__name__, inspect.signature(network).parameters.values()
    if "num_classes" not in {parameter.name for parameter in parameters}:
        return f"the __init__ of {name} does not take num_classes: let it, for the size of its classifier"
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    others = [p.name for p in parameters if p.default is p.empty and p.kind not in fixed and p.name not in _GIVEN]
    if others:
        return f"the __init__ of {name} takes {', '.join(others)}: give all but num_classes and image_size a default"
    return ""


def _flaw_of_paths(network: type[nn.Module]) -> str:
    """Return what is wrong with the line that says where the parts of a plain module are; empty if nothing is."""
    stages = getattr(network, "STAGES", None)
    if stages is None:
        return (
            f"{network.__name__} does not say where its feature maps are: add the paths of the modules whose outputs "
            'they are, shallow to deep, such as STAGES = "layer1", "layer2"'
        )
    if not isinstance(stages, tuple | list) or not stages or not all(isinstance(path, str) for path in stages):
        return f'STAGES is {stages!r}: it must be paths of modules, such as STAGES = "layer1", "layer2"'
    classifier = getattr(network, "CLASSIFIER", "")
    if not isinstance(classifier, str):
        return f'CLASSIFIER is {classifier!r}: it must be the path of a module, such as CLASSIFIER = "fc"'
    return ""
