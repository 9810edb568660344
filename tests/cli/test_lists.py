"""What the lists and pages of methods say of ImageNet and of image files."""

from __future__ import annotations

import re

from cells import METHODS, Typed

from kdbench.analysis.comparison import FAMILIES
from kdbench.experiment.registry import load_method


def test_methods_are_listed_by_family_and_year(typed: Typed) -> None:
    code, out, err = typed("list", "methods")
    assert (code, err) == (0, "")
    groups = [block.splitlines() for block in "\n".join(out.splitlines()[2:]).split("\n\n")]
    rows = [[re.split(r" {2,}", line)[:3] for line in lines] for lines in groups]
    assert [lines[0][0] for lines in rows] == list(FAMILIES)
    assert {family for lines in rows for family, *_ in lines[1:]} == {""}
    for family, lines in zip(FAMILIES[1:], rows[1:], strict=True):
        listed = [(int(year), method) for _, method, year in lines]
        assert listed == sorted(listed)
        assert {load_method(method).FAMILY for _, method in listed} == {family}
    assert sorted(method for lines in rows for _, method, _ in lines) == sorted(METHODS)


def test_data_sets_of_image_files_are_listed_with_their_protocols(typed: Typed) -> None:
    code, out, _ = typed("list", "datasets")
    assert code == 0
    rows = dict(line.split(maxsplit=1) for line in out.splitlines()[2:])
    assert rows["imagenet:DIR"] == "imagenet-crd-pool50-v1, imagenet-crd-v1"
    assert rows["tinyimagenet:DIR"] == "tinyimagenet-crd-v1"
    assert rows["folder:DIR"] == rows["tar:DIR"] == rows["hfds:NAME"]
    assert rows["folder:DIR"].startswith("imagefolder-224-v1;")
    assert rows["cifar100"] == "cifar100-crd-v1"
    npz = "all but imagefolder-224-v1, imagenet-crd-pool50-v1, imagenet-crd-v1, with --data in place of a folder"
    assert rows["npz:FILE"] == npz


def test_protocols_and_pairs_of_imagenet_are_listed(typed: Typed) -> None:
    code, out, _ = typed("list", "protocols")
    assert code == 0
    assert "ImageNet as in CRD: 100 epochs, batch 256 in groups of 64, 50 fixed crops an image" in " ".join(out.split())
    code, out, _ = typed("list", "pairs")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["imagenet", "torchvision:resnet34>torchvision:resnet18", "73.31", "69.76"] in rows
    assert ["imagenet", "torchvision:resnet50>MobileNetV1", "76.13", "68.87"] in rows


def test_settings_for_imagenet_are_shown_with_their_source(typed: Typed) -> None:
    code, out, _ = typed("show", "dkd")
    assert code == 0
    text = " ".join(out.split())
    assert (
        "imagenet: beta = 0.5, temperature = 1.0, warmup = 0.01 for torchvision:resnet34>torchvision:resnet18 source: "
        "megvii-research/mdistiller a08d46f, configs/imagenet/r34_r18/dkd.yaml"
    ) in text
    assert "imagenet: beta = 2.0, temperature = 1.0, warmup = 0.01 for torchvision:resnet50>MobileNetV1" in text


def test_a_method_without_settings_for_imagenet_says_so(typed: Typed) -> None:
    code, out, _ = typed("show", "kdsvd")
    assert code == 0
    text = " ".join(out.split())
    ours = text.partition("none published: using the defaults is our choice for ")[2].partition("unsupported: ")[0]
    assert "torchvision:resnet34>torchvision:resnet18" in ours
    assert "unsupported: torchvision:resnet50>MobileNetV1: KDSVD compares stages with equally many channels" in text
