"""Networks by name: those for small images that distillation is compared on, and any of timm's.

Importing this package imports no network: torch and timm are loaded when one is built.
"""

from __future__ import annotations

import difflib
import importlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair

if TYPE_CHECKING:
    from kdbench.net import Backbone

TIMM = "timm:"

_FILES: dict[str, tuple[str, ...]] = {
    "resnet": (
        *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
        *("resnet8x4", "resnet32x4"),
    ),
    "wrn": ("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"),
    "vgg": ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"),
    "mobilenetv2": ("MobileNetV2",),
    "shufflenetv1": ("ShuffleNetV1",),
    "shufflenetv2": ("ShuffleNetV2",),
    "resnet50": ("ResNet50",),
}
"""The networks that each file of this folder builds."""

NETWORKS: tuple[str, ...] = tuple(name for names in _FILES.values() for name in names)
"""Names of the networks for small images."""


def _key(name: str) -> str:
    """Reduce a spelling: WRN-40-2, Wide ResNet 40 2, ResNet32×4, ShuffleV1 are all in use."""
    key = re.sub(r"[-_\s]", "", name).lower().replace("×", "x")
    return re.sub(r"^shufflev", "shufflenetv", re.sub(r"^wideresnet", "wrn", key))


_BY_KEY = {_key(name): name for name in NETWORKS}


def canonical_network(name: str) -> str:
    """Return the one spelling of a network's name that cells and records use.

    Case, ``-``, ``_`` and spaces do not count. ``timm:NAME`` stays as it is, with a lower-case prefix.

    Raises
    ------
    UserError
        For a name that is not known, with the closest ones, and for one of timm's pretrained weights, which are never
        loaded. A name of timm's is checked when it is built.
    """
    name = name.strip()
    if name.lower().startswith(TIMM):
        network, dot, _ = name[len(TIMM) :].strip().partition(".")
        if dot:
            raise UserError(
                f"{name!r} names pretrained weights, and kdbench loads none by name: type {TIMM}{network}, and bring "
                f"weights as a teacher with 'kdbench teacher import FILE --network {TIMM}{network}'"
            )
        return TIMM + network
    if (key := _key(name)) in _BY_KEY:
        return _BY_KEY[key]
    close = [_BY_KEY[match] for match in difflib.get_close_matches(key, _BY_KEY, n=3)]
    hint = f"; did you mean {', '.join(close)}?" if close else "."
    raise UserError(
        f"there is no network {name!r}{hint} 'kdbench list networks' shows all, and timm:NAME gives any of timm's"
    )


def parse_pair(text: str) -> Pair:
    """Read ``TEACHER>STUDENT`` or ``TEACHER@HASH>STUDENT``, and return it with the one spelling of both names.

    Raises
    ------
    UserError
        It is no pair, or a name is not known.
    """
    pair = Pair.parse(text)
    teacher = replace(pair.teacher, network=canonical_network(pair.teacher.network))
    return Pair(teacher, canonical_network(pair.student))


def build_backbone(name: str, num_classes: int, image_size: tuple[int, int]) -> Backbone:
    """Build a network with fresh weights, drawn from torch's global random stream.

    Parameters
    ----------
    name
        Any spelling that ``canonical_network`` takes; of timm's also one with a tag, which records of earlier versions
        may hold and which changes nothing.
    num_classes
        Number of classes.
    image_size
        Height and width of the images; networks for small images take any of at least 8 x 8.

    Raises
    ------
    UserError
        For a name that is not known, or a network of timm's that cannot serve, with the reason.
    """
    if not name.startswith(TIMM):
        name = canonical_network(name)
    if name.startswith(TIMM):
        from kdbench.models.timm_adapter import TimmBackbone  # noqa: PLC0415

        return TimmBackbone(name.removeprefix(TIMM), num_classes, image_size)
    file = next(file for file, names in _FILES.items() if name in names)
    backbone: Backbone = importlib.import_module(f"kdbench.models.{file}").build(name, num_classes)
    return backbone
