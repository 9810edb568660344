"""Weights that torchvision and timm publish: what is known of them, and their files in the caches of both."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import huggingface_hub
import timm
import torch
import torchvision
from huggingface_hub.utils import logging as hub_logging

from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol
from kdbench.models import TIMM, TORCHVISION, canonical_network, twin_of
from kdbench.utils.files import sha256_of
from kdbench.utils.reading import read_object
from kdbench.utils.text import one_line

_FILE, _CONFIG = "model.safetensors", "config.json"
"""Names of timm's files on the Hugging Face hub."""
_DIGITS = re.compile(r"-([0-9a-f]{8,})\.\w+$")
"""The first digits of a file's SHA-256 at the end of its published name."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Published weights of a network, and the images that they were published for."""

    name: str
    """``torchvision:NETWORK.TAG`` or ``timm:NETWORK.TAG``."""
    url: str
    """Of the file; empty where it is on the Hugging Face hub alone."""
    repository: str = ""
    """On the Hugging Face hub; empty where the file is not there."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    """Side of the test images, in pixels."""
    input_size: int
    """Side of the images that the network was made for, in pixels: timm tests some on larger ones."""
    evaluation_size: int
    """Shorter side of a test image before its centre is cut out."""
    interpolation: str
    accuracy: float | None = None
    """Top-1 on ImageNet-1k in percent, as published for such test images."""

    @property
    def digits(self) -> str:
        """The first digits of the file's SHA-256 at ``url``; empty where they are not in its name."""
        match = _DIGITS.search(self.url)
        return match[1] if match else ""

    def seen_by(self, protocol: Protocol) -> bool:
        """Return whether a protocol makes its test images as those were made that the weights were published for."""
        rules = protocol.rules.augmentation
        here = rules.size, rules.evaluation_size, rules.interpolation
        return here == (self.size, self.evaluation_size, self.interpolation)

    def accuracy_under(self, protocol: Protocol) -> float | None:
        """Return the published accuracy if it is one of the protocol's test images."""
        return self.accuracy if protocol.dataset == "imagenet" and self.seen_by(protocol) else None


@final
@dataclass(frozen=True, slots=True)
class Source:
    """A file of weights, and what is known of it if it is a published one."""

    path: Path
    published: Published | None

    @property
    def origin(self) -> str:
        """Where the weights come from, in words."""
        name = self.published.name if self.published else ""
        file = "" if self.path.name == _FILE and name else self.path.name
        return ", ".join(filter(None, (file, name)))


def find_source(text: str, network: str, *, identify: bool = True) -> Source:
    """Find the file that a user means: a path, or the name of published weights, which are downloaded if need be.

    Parameters
    ----------
    identify
        Whether a file is taken for published weights of the network where the SHA-256 of its content is that in their
        name, or where timm's ``config.json`` lies beside it.

    Raises
    ------
    UserError
        The name is unknown, or of another network, or the file is in no cache and cannot be downloaded.
    """
    prefix, colon, rest = (part.strip() for part in text.partition(":"))
    prefix = prefix.lower() + colon
    if prefix not in {TIMM, TORCHVISION} or Path(text).exists():
        try:
            path = Path(text).expanduser()
        except RuntimeError as error:  # of a user that there is not
            raise UserError(f"{text!r} names no file ({one_line(error)}): type its path") from None
        return Source(path, _identified(path, network) if identify and path.is_file() else None)
    name, point, tag = rest.partition(".")
    owner = canonical_network(prefix + name)
    if network not in {owner, twin_of(owner)}:
        raise UserError(f"{text!r} names weights of {owner}, not of {network}")
    for published in _published(owner):
        if point and published.name.lower() == f"{owner}.{tag}".lower():
            return Source(_cached(published) or _download(published), published)
    names = ", ".join(published.name for published in _published(owner))
    raise UserError(f"there are no weights {text!r}: {f'type one of {names}' if names else 'none are published'}")


def _published(network: str) -> Iterator[Published]:
    """Yield what is published of a network under its own name."""
    prefix, _, name = network.partition(":")
    if f"{prefix}:" == TORCHVISION:
        for weights in torchvision.models.get_model_weights(name):
            images = weights.transforms()
            yield Published(
                name=f"{network}.{weights.name}",
                url=weights.url,
                mean=tuple(images.mean),
                std=tuple(images.std),
                size=images.crop_size[0],
                input_size=images.crop_size[0],
                evaluation_size=images.resize_size[0],
                interpolation=images.interpolation.value,
                accuracy=weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
            )
    elif f"{prefix}:" == TIMM:
        for tagged in timm.list_pretrained(f"{name}.*"):
            config = timm.get_pretrained_cfg(tagged)
            if config is not None and (config.hf_hub_id or config.url):
                yield _of_timm(f"{TIMM}{tagged}", vars(config))


def _of_timm(name: str, config: Mapping[str, Any]) -> Published:
    """Describe weights by timm's configuration of them."""
    size = (config.get("test_input_size") or config["input_size"])[-1]
    return Published(
        name=name,
        url=config.get("url") or "",
        repository=config.get("hf_hub_id") or "",
        mean=tuple(map(float, config["mean"])),
        std=tuple(map(float, config["std"])),
        size=size,
        input_size=config["input_size"][-1],
        evaluation_size=int(size / (config.get("test_crop_pct") or config["crop_pct"])),
        interpolation=config["interpolation"],
    )


def _identified(path: Path, network: str) -> Published | None:
    """Return which published weights of a network a file holds, if it is known."""
    names = sorted(filter(None, (network, twin_of(network))), reverse=True)  # torchvision's own before timm's copies
    published = [weights for name in names for weights in _published(name)]
    digest = sha256_of(path) if published else ""
    for weights in published:
        if weights.digits and digest.startswith(weights.digits):
            return weights
    described = read_object(path.parent / _CONFIG)
    config, name = described.get("pretrained_cfg"), f"{TIMM}{described.get('architecture')}"
    if isinstance(config, dict) and name in names:
        with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
            return _of_timm(f"{name}.{config['tag']}", config)
    return None


def _cached(published: Published) -> Path | None:
    """Return the file of published weights in the cache of the Hugging Face hub or of torch.hub, if it is there."""
    if published.repository:
        path = huggingface_hub.try_to_load_from_cache(published.repository, _FILE)
        if isinstance(path, str):
            return Path(path)
    file = _hub_file(published)
    if not published.url or not file.is_file():
        return None
    if not sha256_of(file).startswith(published.digits):
        raise UserError(f"{file} is not the file of {published.name}, or damaged: delete it, then fetch it again")
    return file


def _download(published: Published) -> Path:
    link = published.url
    try:
        if published.repository:
            link = f"{huggingface_hub.hf_hub_url(published.repository, _FILE)} with the {_CONFIG} beside it"
            with _quiet_hub():
                return Path(huggingface_hub.hf_hub_download(published.repository, _FILE))
        file = _hub_file(published)
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(link, str(file), published.digits or None, progress=sys.stderr.isatty())
    except Exception as error:  # whatever a network, a disk or the hub's client raises
        raise UserError(
            f"{published.name} is in no cache of this machine and cannot be downloaded ({type(error).__name__}): fetch "
            f"{link} elsewhere, and type the path of the file in place of its name"
        ) from None
    return file


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's client from logging each of its retries."""
    before = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


def _hub_file(published: Published) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
