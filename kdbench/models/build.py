"""Build a network for a data set."""

from __future__ import annotations

from kdbench.data.images import Dataset
from kdbench.experiment.protocol import Protocol
from kdbench.models import build_backbone
from kdbench.net import Net
from kdbench.utils.streams import seeded


def build_net(network: str, protocol: Protocol, dataset: Dataset, *, seed: int, purpose: str) -> Net:
    """Build a network for a data set, with initial weights from the stream ``(seed, "init", purpose)``."""
    image_size = dataset.shape.image_size
    with seeded(seed, "init", purpose):
        backbone = build_backbone(network, dataset.num_classes, image_size)
        return Net(network, backbone, mean=protocol.rules.data.mean, std=protocol.rules.data.std, image_size=image_size)
