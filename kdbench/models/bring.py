"""Bring weights of others to a network: from a file, or by the name under which they are published."""

from __future__ import annotations

import timm

from kdbench.data.images import Dataset, Normalisation
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol
from kdbench.models import TIMM, named_by_torchvision
from kdbench.models.build import build_net
from kdbench.models.checkpoints import Loaded, load_checkpoint
from kdbench.models.pretrained import Source, find_source
from kdbench.models.starts import Start
from kdbench.models.timm_adapter import TimmBackbone
from kdbench.models.weights import classifier_names, load_weights, own_classifier
from kdbench.net import Net
from kdbench.utils.text import counted


def check_given(network: str) -> None:
    """Make sure that a network whose weights are given is called by the one name that it has then.

    Raises
    ------
    UserError
        It is timm's, and torchvision has the same function.
    """
    name = named_by_torchvision(network)
    if name != network:
        raise UserError(
            f"{network} and {name} are one function where their weights are given, and have one name then: type {name}"
        )


def load_source(net: Net, source: Source, key: str | None = None, *, any_classes: bool = False) -> Loaded:
    """Load weights into a network; see :func:`kdbench.models.checkpoints.load_checkpoint`.

    Weights that timm publishes of a network of timm's are loaded by timm, which fits them to the size of the images.

    Raises
    ------
    UserError
        The file cannot be read, or does not fit the network.
    """
    tagged = source.published.name.removeprefix(TIMM) if source.published else ""
    if net.name != TIMM + tagged.partition(".")[0] or not timm.list_pretrained(tagged):
        return load_checkpoint(net, source.path, key, any_classes=any_classes)
    config = timm.get_pretrained_cfg(tagged)
    assert config is not None
    classes = config.num_classes
    weights = TimmBackbone(tagged, net.num_classes, net.image_size, source.path).state_dict()
    if classes == net.num_classes:
        load_weights(net, weights, source.origin)
        return Loaded("", chosen=False)
    if not any_classes:
        wanted, there = (counted(number, "class") for number in (net.num_classes, classes))
        raise UserError(f"{source.origin} is no {net.name} with {wanted}: it has {there}")
    load_weights(net, weights | own_classifier(net), source.origin)
    return Loaded("", chosen=False, other_classes=classes)


def own_normalisation(source: Source, protocol: Protocol) -> Normalisation | None:
    """Return the normalisation that goes with published weights; None where it is the protocol's, or not known."""
    data, published = protocol.rules.data, source.published
    if published is None or (published.mean, published.std) == (data.mean, data.std):
        return None
    return published.mean, published.std


def own_size(source: Source, dataset: Dataset) -> int | None:
    """Return the side of the images that published weights were trained for; None where it is the data's."""
    side = source.published.input_size if source.published else None
    return None if side is None or (side, side) == dataset.shape.image_size else side


def make_start(network: str, text: str, protocol: Protocol, dataset: Dataset) -> tuple[Start, int | None]:
    """Bring weights for a network's training to start from.

    Parameters
    ----------
    network
        The one spelling of its name.
    text
        A file, or the name of published weights.

    Returns
    -------
    start
        The weights, less those of a classifier for another number of classes than the data set's.
    other_classes
        That number; None where the classifier is kept.

    Raises
    ------
    UserError
        There are no such weights, or they do not fit the network.
    """
    check_given(network)
    source = find_source(text, network)
    net = build_net(network, protocol, dataset, seed=0, purpose="start")
    other_classes = load_source(net, source, any_classes=True).other_classes
    fresh = set() if other_classes is None else classifier_names(net)
    weights = {k: v.detach().contiguous() for k, v in net.backbone.state_dict().items() if k not in fresh}
    normalisation = own_normalisation(source, protocol)
    start = Start(network=network, weights=weights, normalisation=normalisation, origin=source.origin)
    return start, other_classes
