"""Write trained networks for other libraries; each file is loaded again and compared before it is put in place.

Legend: ``B`` images, ``H`` x ``W`` pixels, ``K`` classes.
"""

from __future__ import annotations

import importlib
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, final

import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from kdbench.engine.described import Described
from kdbench.engine.model_card import model_card
from kdbench.engine.trained import Trained, is_wrapped, read_net
from kdbench.errors import UserError
from kdbench.models import TIMM, TORCHVISION, twin_of
from kdbench.models.timm_adapter import TimmBackbone
from kdbench.utils.files import explain_os_errors, write_atomic
from kdbench.utils.streams import generator
from kdbench.utils.text import one_line

Target = Literal["timm", "torchvision", "onnx", "hf"]
_SUFFIXES = {"timm": (".safetensors", ".pth"), "torchvision": (".safetensors", ".pth"), "onnx": (".onnx",), "hf": ()}
"""Of the file, by what it is for; a folder where there is none."""
_FAR = 1e-4
"""Largest difference of logits to those of the network, over the largest of these; at least 1."""
_ELSEWHERE = "give another path with --out"
_PATH = "{path}"
"""What stands in a line for the path of what was written."""
Written = tuple[Callable[[Tensor], Tensor], str]
"""What gives the logits of images in [0, 1] by what was written, and how to load it: a line with `_PATH` in it."""


def export(source: Described, target: Target, out: Path) -> str:
    """Write a network for another library, and return how to load it, in a line.

    Parameters
    ----------
    out
        The file, or for ``hf`` the folder; it must not exist.

    Raises
    ------
    UserError
        The network is not one of that library's, a package is missing, the path is no good, the weights are not those
        of the record, or the logits of what was written differ.
    """
    _check(source, target, out)
    net = Trained(read_net(source), source.protocol.rules.augmentation)
    writers: dict[Target, Callable[[Trained, Described, Path], Written]] = {
        "timm": _write_timm,
        "torchvision": _write_torchvision,
        "onnx": _write_onnx,
        "hf": _write_hf,
    }
    with (
        explain_os_errors(out, _ELSEWHERE),
        tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=_folder_of(out)) as folder,
    ):
        written = Path(folder) / out.name
        run, words = writers[target](net, source, written)
        _compare(net, run, f"{source.name} as {target}")
        if written.is_dir():
            written.rename(out)
        else:
            write_atomic(out, written.read_bytes(), _ELSEWHERE)
    return words.replace(_PATH, repr(str(out)))


def _check(source: Described, target: Target, out: Path) -> None:
    """Raise UserError for what can be known before the network is loaded: first what no other path mends."""
    if target != "onnx":
        _native(source, TORCHVISION if target == "torchvision" else TIMM)
    _check_path(target, out)
    if target == "onnx":
        _onnx_packages()


def _check_path(target: Target, out: Path) -> None:
    suffixes = _SUFFIXES[target]
    with explain_os_errors(out, _ELSEWHERE):
        exists = out.exists() or out.is_symlink()
    if exists:
        raise UserError(f"{out} exists, and nothing is overwritten: {_ELSEWHERE}, or delete it first")
    if not out.name or (suffixes and out.suffix not in suffixes):
        named = f"a file that ends in {' or '.join(suffixes)}" if suffixes else "a folder"
        raise UserError(f"--to {target} writes {named}, not {str(out)!r}: {_ELSEWHERE}")


def _folder_of(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


@torch.no_grad()
def _compare(net: Trained, run: Callable[[Tensor], Tensor], what: str) -> None:
    """Raise UserError unless what was written gives the network's logits, on batches of four images and of one."""
    draw = generator(0, "export")
    for num_images in (4, 1):
        images = torch.rand(num_images, 3, *net.image_size, generator=draw)
        expected, actual = net(net.normalise(images)), run(images)
        difference = (actual - expected).abs().max().item() if actual.shape == expected.shape else float("inf")
        if not difference <= _FAR * max(1.0, expected.abs().max().item()):
            raise UserError(f"{what} is not written: its logits differ from the network's by {difference:g}")


def _native(source: Described, prefix: str) -> str:
    """Return a library's name of a network.

    Raises
    ------
    UserError
        The network is none of the library's.
    """
    library = {TIMM: "timm", TORCHVISION: "torchvision"}[prefix]
    twin = twin_of(source.network) or ""
    name = next((name for name in (source.network, twin) if name.startswith(prefix)), None)
    remedy = "type --to onnx, or use it with kdbench.load"
    if is_wrapped(source):
        raise UserError(
            f"{source.name} is more than {source.network}: what its method added belongs to it, and {library} knows no "
            f"such network; {remedy}"
        )
    if name is None:
        raise UserError(f"{source.network} is no network of {library}: {remedy}")
    return name.removeprefix(prefix)


def _weights(net: Trained) -> dict[str, Tensor]:
    """Return a network's weights by the names that its library gives them."""
    prefix = net.backbone.PREFIX
    return {k.removeprefix(prefix): v.detach().cpu().contiguous() for k, v in net.backbone.state_dict().items()}


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    if path.suffix == ".safetensors":
        path.write_bytes(safetensors.torch.save(dict(weights)))
    else:
        torch.save(dict(weights), path)


def _normalised(net: Trained, model: nn.Module) -> Callable[[Tensor], Tensor]:
    model.eval()
    return lambda images: model(net.normalise(images))


def _timm_options(net: Trained) -> dict[str, Any]:
    """Return what `timm.create_model` is to be given besides the name and the number of classes."""
    return net.backbone.options if isinstance(net.backbone, TimmBackbone) else {}


def _write_timm(net: Trained, source: Described, path: Path) -> Written:
    name, options = _native(source, TIMM), _timm_options(net)
    _save(_weights(net), path)
    model = timm.create_model(name, num_classes=net.num_classes, checkpoint_path=str(path), **options)
    given = "".join(f", {key}={value!r}" for key, value in options.items())
    words = f"timm.create_model({name!r}, num_classes={net.num_classes}{given}, checkpoint_path={_PATH})"
    return _normalised(net, model), f"{words}; {_input(net)}"


def _write_torchvision(net: Trained, source: Described, path: Path) -> Written:
    name = _native(source, TORCHVISION)
    _save(_weights(net), path)
    model = torchvision.models.get_model(name, weights=None, num_classes=net.num_classes)
    is_safe = path.suffix == ".safetensors"
    model.load_state_dict(safetensors.torch.load_file(path) if is_safe else torch.load(path, weights_only=True))
    read = "safetensors.torch.load_file" if is_safe else "torch.load"
    words = f"torchvision.models.get_model({name!r}, num_classes={net.num_classes}).load_state_dict({read}({_PATH}))"
    return _normalised(net, model), f"{words}; {_input(net)}"


def _write_hf(net: Trained, source: Described, folder: Path) -> Written:
    """Write a folder as timm reads it from the Hugging Face hub, and with ``local-dir:`` from a disk."""
    name = _native(source, TIMM)
    folder.mkdir()
    _save(_weights(net), folder / "model.safetensors")
    config = _hf_config(net, name)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(source, net, _input(net)), encoding="utf-8")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return _normalised(net, model), f"timm.create_model('local-dir:' + {_PATH}, pretrained=True); {_input(net)}"


def _hf_config(net: Trained, name: str) -> dict[str, Any]:
    """Return the content of ``config.json``, by timm's conventions."""
    own: Any = timm.create_model(name, num_classes=net.num_classes, **_timm_options(net))
    about = dict(own.pretrained_cfg)
    mean, std = _numbers(net)
    rules, (height, width) = net.rules, net.image_size
    kept = {key: about[key] for key in ("first_conv", "classifier", "fixed_input_size") if key in about}
    return {
        "architecture": name.partition(".")[0],
        "num_classes": net.num_classes,
        "num_features": net.width,
        "model_args": _timm_options(net),
        "pretrained_cfg": {
            **kept,
            "custom_load": False,
            "num_classes": net.num_classes,
            "input_size": [3, height, width],
            "interpolation": rules.interpolation if rules else "bilinear",
            "crop_pct": rules.size / rules.evaluation_size if rules and rules.size and rules.evaluation_size else 1.0,
            "crop_mode": "center",
            "mean": mean,
            "std": std,
        },
    }


@final
class _Whole(nn.Module):
    """A network of images in [0, 1], with its normalisation."""

    def __init__(self, net: Trained) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, K)`` of images ``(B, 3, H, W)``."""
        logits: Tensor = self.net(self.net.normalise(images))
        return logits


def _write_onnx(net: Trained, source: Described, path: Path) -> Written:
    """Write a network of images in [0, 1] with its normalisation, for batches of any size."""
    runtime = _onnx_packages()
    images = torch.zeros(2, 3, *net.image_size)
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                _Whole(net).eval(),
                (images,),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes={"images": {0: "batch"}},
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(path)
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the exporter raises what it happens to meet in a network
        raise UserError(f"{source.name} cannot be written as ONNX: {one_line(error)}") from None

    def run(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])

    height, width = net.image_size
    words = f"onnxruntime.InferenceSession({_PATH})"
    return run, f"{words}; input 'images', float32 (B, 3, {height}, {width}) in [0, 1], normalised inside"


def _onnx_packages() -> Any:
    """Return ONNX Runtime, which checks what the exporter has written.

    Raises
    ------
    UserError
        A package is missing.
    """
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UserError(f"--to onnx needs the package {error.name}: type pip install 'kdbench[onnx]'") from None


def _input(net: Trained) -> str:
    """Say what a network is given."""
    (height, width), (mean, std) = net.image_size, _numbers(net)
    return f"images of {height} x {width} in [0, 1], less mean {mean}, over std {std}"


def _numbers(net: Trained) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation as short numbers that are the same in float32."""
    mean, std = ([float(f"{value:.7g}") for value in part.flatten().tolist()] for part in (net.mean, net.std))
    return mean, std
