"""Build a network for a data set."""

from __future__ import annotations

from typing import Any

from kdbench.data.images import Dataset, Normalisation
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol
from kdbench.models import LARGE, build_backbone
from kdbench.net import Net
from kdbench.utils.streams import seeded

_SMALL = 64
"""Side of the largest image files, in pixels, that are taken for small images."""


def check_name(network: str, protocol: Protocol) -> None:
    """Make sure that a network is the one that its name means for the protocol's images.

    Raises
    ------
    UserError
        Where images are large, the name means another network; the text says what to type.
    """
    side = protocol.rules.augmentation.size
    if side is not None and side > _SMALL and network in LARGE:
        raise UserError(
            f"{network} is here the network for small images, not the one that has this name for images of "
            f"{side}x{side}, as {protocol.name} has them: {LARGE[network]}"
        )


def build_net(
    network: str,
    protocol: Protocol,
    dataset: Dataset,
    *,
    seed: int,
    purpose: str,
    normalisation: Normalisation | None = None,
) -> Net:
    """Build a network for a data set, with initial weights from the stream ``(seed, "init", purpose)``.

    Parameters
    ----------
    normalisation
        Of its input; the protocol's by default.

    Raises
    ------
    UserError
        The network does not exist, does not take such images, or its name means another one for them.
    """
    check_name(network, protocol)
    image_size = dataset.shape.image_size
    with seeded(seed, "init", purpose):
        backbone = build_backbone(network, dataset.num_classes, image_size)
        mean, std = normalisation or dataset.normalisation(protocol.rules.data)
        return Net(network, backbone, mean=mean, std=std, image_size=image_size)


def input_of(net: Net) -> dict[str, Any]:
    """Return what a network is given and how many classes it tells apart, as records and cards hold it."""
    return {
        "size": list(net.image_size),
        "mean": net.mean.flatten().tolist(),
        "std": net.std.flatten().tolist(),
        "classes": net.num_classes,
    }
