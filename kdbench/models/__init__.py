"""Networks by name: those that distillation is compared on, users' own, and any of timm's.

Importing this package imports no network: torch and timm are loaded when one is built.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING

from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.experiment.beside_code import NETWORK
from kdbench.experiment.own_code import CodeSource, find_code
from kdbench.experiment.pairs import Pair
from kdbench.models.own import build_own, version_of

if TYPE_CHECKING:
    from kdbench.net import Backbone

TIMM, TORCHVISION = "timm:", "torchvision:"

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
    "mobilenetv1": ("MobileNetV1",),
    "torchvision_resnet": tuple(f"{TORCHVISION}resnet{depth}" for depth in (18, 34, 50)),
}
"""The networks that each file of this folder builds."""

NETWORKS: tuple[str, ...] = tuple(name for names in _FILES.values() for name in names)
"""Names of kdbench's networks; users' own and timm's are known besides."""
LARGE: Mapping[str, str] = MappingProxyType(
    {
        "ResNet50": "type torchvision:resnet50",
        "MobileNetV2": "type MobileNetV1, which many papers call MobileNetV2 there, or timm:mobilenetv2_100",
        **{f"vgg{depth}": f"type timm:vgg{depth}_bn" for depth in (11, 13, 16, 19)},
        **dict.fromkeys(("ShuffleNetV1", "ShuffleNetV2"), "kdbench does not have that one, choose another network"),
    }
)
"""Networks for small images whose names mean other networks where images are large, and what to do there."""


def _key(name: str) -> str:
    """Reduce a spelling: WRN-40-2, Wide ResNet 40 2, ResNet32×4, ShuffleV1 are all in use."""
    key = re.sub(r"[-_\s]", "", name).lower().replace("×", "x")
    return re.sub(r"^shufflev", "shufflenetv", re.sub(r"^wideresnet", "wrn", key))


_BY_KEY = {_key(name): name for name in NETWORKS}


def _built_in() -> tuple[CodeSource, ...]:
    origin = f"kdbench {metadata.version('kdbench')}"
    return tuple(
        CodeSource(NETWORK, name, origin, f"{__name__}.{file}", own=False)
        for file, names in _FILES.items()
        for name in names
    )


def network_sources() -> dict[str, CodeSource]:
    """Return the source of every network but timm's, by name: kdbench's and then users'.

    Raises
    ------
    UserError
        A folder does not exist, or two networks have one name.
    """
    return find_code(NETWORK, _built_in, _key)


def own_networks() -> dict[str, CodeSource]:
    """Return the source of every network of the user's, by name."""
    return {name: source for name, source in network_sources().items() if source.own}


def own_network(name: str) -> CodeSource | None:
    """Return where a network comes from if it is the user's, by its canonical name."""
    return own_networks().get(name)


def code_text(name: str) -> str | None:
    """Return origin and hash of the code of a network of the user's, by its canonical name; None for all others."""
    source = own_network(name)
    return source.text if source else None


def network_version(name: str) -> int | None:
    """Return the VERSION of a network of the user's, by its canonical name; None for all others.

    Raises
    ------
    UserError
        Its file cannot be used.
    """
    source = own_network(name)
    return version_of(source) if source else None


def canonical_network(name: str) -> str:
    """Return the one spelling of a network's name that cells and records use.

    Networks of users are known, too. Case, ``-``, ``_`` and spaces do not count. ``timm:NAME`` stays as it is, with a
    lower-case prefix.

    Raises
    ------
    UserError
        For a name that is not known, with the closest ones, and for one with a tag of pretrained weights, which says
        where training starts and not what is trained. A name of timm's is checked when it is built.
    """
    name = name.strip()
    prefix, colon, rest = (part.strip() for part in name.partition(":"))
    prefix = prefix.lower() + colon
    if prefix in {TIMM, TORCHVISION} and "." in rest:
        weights, network = prefix + rest, prefix + rest.partition(".")[0]
        raise UserError(
            f"{weights!r} names pretrained weights: type {network}, or to start a student from them "
            f"{named_by_torchvision(network)} with --init {weights}; they become a teacher with "
            f"'kdbench teacher import {weights} --network {network}'"
        )
    if prefix == TIMM:
        return TIMM + rest
    known_names = _BY_KEY | {_key(own): own for own in own_networks()}
    if (key := _key(name)) in known_names:
        return known_names[key]
    if (known := _BY_KEY.get(TORCHVISION + key)) is not None:
        raise UserError(f"there is no network {name!r} for small images: type {known} for the one for large images")
    close = [known_names[match] for match in difflib.get_close_matches(key, known_names, n=3)]
    hint = f"; did you mean {', '.join(close)}?" if close else "."
    remedy = "'kdbench list networks' shows all, and timm:NAME gives any of timm's"
    if not own_folders.folders_of("networks"):
        remedy += f"; one of your own is {own_folders.found_with('--own', own_folders.OWN)}"
    raise UserError(f"there is no network {name!r}{hint} {remedy}")


def twin_of(network: str) -> str | None:
    """Return the name under which the other of timm and torchvision has the same function of the same weights.

    Fresh weights differ: timm sets the last batch norm of each block to zero. So both names are of use; a network whose
    weights are given has one, torchvision's.
    """
    prefix, _, name = network.partition(":")
    if TORCHVISION + name not in NETWORKS:
        return None
    return {TIMM: TORCHVISION + name, TORCHVISION: TIMM + name}.get(f"{prefix}:")


def named_by_torchvision(network: str) -> str:
    """Return the one name that a network has whose weights are given."""
    twin = twin_of(network)
    return twin if twin is not None and network.startswith(TIMM) else network


def parse_pair(text: str) -> Pair:
    """Read ``TEACHER>STUDENT``, where the teacher may be an ensemble, and return it with the one spelling of all names.

    Raises
    ------
    UserError
        It is no pair, or a name is not known.
    """
    pair = Pair.parse(text)
    return Pair(pair.teacher.spelled(canonical_network), canonical_network(pair.student))


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
        For a name that is not known, or a network of timm's or the user's that cannot serve, with the reason.
    """
    if not name.startswith(TIMM):
        name = canonical_network(name)
    if name.startswith(TIMM):
        from kdbench.models.timm_adapter import TimmBackbone  # noqa: PLC0415

        return TimmBackbone(name.removeprefix(TIMM), num_classes, image_size)
    if source := own_network(name):
        return build_own(source, num_classes, image_size)
    file = next(file for file, names in _FILES.items() if name in names)
    backbone: Backbone = importlib.import_module(f"kdbench.models.{file}").build(name, num_classes)
    return backbone
