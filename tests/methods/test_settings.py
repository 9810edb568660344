"""Every method's settings are described, checked and tied to its recipes."""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any, get_args, get_type_hints

import pytest
from cells import METHODS as ROWS
from recipe_files import CIFAR_PAIRS, PAIRS, recipes

from kdbench.config import field_docs
from kdbench.experiment.registry import load_method
from kdbench.method import Method
from kdbench.methods import (
    ab,
    at,
    cc,
    crd,
    dkd,
    fitnet,
    ft,
    kd,
    nst,
    pkt,
    rkd,
    sp,
    vid,
)

pytestmark = pytest.mark.once

METHODS = {name: load_method(name) for name in ROWS}


@pytest.mark.parametrize("method", METHODS.values())
def test_settings_are_described_and_checked(method: type[Method]) -> None:
    fields = {field.name: field for field in dataclasses.fields(method.Config)}
    docs = field_docs(method.Config)
    assert all(docs[name] for name in fields), docs
    assert set(method.OURS) <= set(fields)
    hints = get_type_hints(method.Config)
    for name in fields:
        if hints[name] is bool or get_args(hints[name]):  # the registry checks choices
            continue
        with pytest.raises(ValueError, match=name):
            method.Config(**{name: -1})
        for value in (math.nan, math.inf, 1e308) if hints[name] is float else (10**400,):
            with pytest.raises(ValueError, match=name) as refused:
                method.Config(**{name: value})
            assert len(str(refused.value)) < 150
        if "temperature" in name:
            with pytest.raises(ValueError, match=name):
                method.Config(**{name: 0.0})


@pytest.mark.parametrize("method", METHODS.values())
def test_recipes_agree_with_the_code(method: type[Method]) -> None:
    """Keys are fields, types match, values differ from the default, pairs are known and stand once."""
    hints = get_type_hints(method.Config)
    default = method.Config()
    seen: list[tuple[str, str]] = []
    for recipe in recipes(method):
        assert recipe.keys() == {"dataset", "pairs", "settings", "source"}
        assert recipe["source"]
        assert set(recipe["pairs"]) <= PAIRS[recipe["dataset"]]
        seen += [(recipe["dataset"], pair) for pair in recipe["pairs"]]
        for key, value in recipe["settings"].items():
            options = get_args(hints[key])  # of a Literal
            assert value in options if options else type(value) is hints[key], f"{key} = {value!r}"
            assert value != getattr(default, key), f"{key} = {value!r} is the default"
        method.Config(**recipe["settings"])
    assert len(seen) == len(set(seen))


def test_published_settings_are_found() -> None:
    betas = {
        pair: dkd.DKD.Config(**recipe["settings"]).beta
        for recipe in recipes(dkd.DKD, "cifar100")
        for pair in recipe["pairs"]
    }
    assert len(betas) == 11
    assert (betas["resnet56>resnet20"], betas["wrn_40_2>wrn_16_2"], betas["resnet32x4>resnet8x4"]) == (2, 6, 8)
    for method in (
        kd.KD,
        crd.CRD,
        at.AT,
        sp.SP,
        pkt.PKT,
        rkd.RKD,
        nst.NST,
        cc.CC,
        fitnet.FitNet,
        vid.VID,
        ab.AB,
        ft.FT,
    ):
        assert {pair for recipe in recipes(method, "cifar100") for pair in recipe["pairs"]} == CIFAR_PAIRS


R34_R18, R50_MV1 = "torchvision:resnet34>torchvision:resnet18", "torchvision:resnet50>MobileNetV1"
IMAGENET: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]] = {
    # R34>R18 and R50>MobileNetV1; only what differs from the defaults, and None where nothing is published
    "kd": ({"ce_weight": 0.5, "kd_weight": 0.5, "temperature": 1.0},) * 2,
    "at": ({}, {}),
    "dot": ({"delta": 0.09},) * 2,
    "crd": ({}, {}),
    "ofd": (None, {"ofd_weight": 1e-4}),
    "reviewkd": (
        {"warmup": 0.0, "student_preact": True},
        {"review_weight": 8.0, "warmup": 0.0, "max_mid_channels": 256, "student_preact": True},
    ),
    "dkd": (
        {"beta": 0.5, "temperature": 1.0, "warmup": 0.01},
        {"beta": 2.0, "temperature": 1.0, "warmup": 0.01},
    ),
    "dist": ({"temperature": 1.0},) * 2,
    "nkd": ({}, {}),
    "mlld": ({"ce_weight": 0.5, "kd_weight": 0.5, "temperature": 1.0},) * 2,
    "srrl": ({"connect": "map"},) * 2,
    "ctkd": ({"ce_weight": 1.0, "kd_weight": 1.0}, None),
    "wsld": ({}, {}),
    "rld": (
        {"beta": 0.5, "temperature": 1.0, "confidence_temperature": 1.0, "warmup": 0.01},
        {"beta": 2.0, "temperature": 1.0, "confidence_temperature": 1.0, "warmup": 0.01},
    ),
    "gdkd": (
        {"mass_weight": 0.5, "rest_weight": 1.0, "temperature": 1.0, "warmup": 0.01},
        {"mass_weight": 0.5, "top_weight": 2.0, "rest_weight": 2.0, "temperature": 1.0, "warmup": 0.01},
    ),
    "mgd": ({}, {}),
    "semckd": ({"semckd_weight": 50.0}, None),
    "diffkd": ({"code_ratio": 2.0}, None),
    "catkd": ({"cat_weight": 0.5, "resolution": 4, "normalize": False}, {"cat_weight": 10.0}),
    "fcfd": ({"kd_temperature": 1.0, "feature_weight": 0.02}, {"kd_temperature": 1.0}),
    "sddkd": (
        {"beta": 0.5, "temperature": 1.0, "warmup": 0.01, "finest": 2},
        {"beta": 2.0, "temperature": 1.0, "warmup": 0.01},
    ),
}
"""The settings for ImageNet that repositories publish."""


@pytest.mark.parametrize("name", METHODS)
def test_published_settings_for_imagenet(name: str) -> None:
    settings = {pair: recipe["settings"] for recipe in recipes(METHODS[name], "imagenet") for pair in recipe["pairs"]}
    simkd: dict[str, Any] = {"torchvision:resnet50>torchvision:resnet18": {}} if name == "simkd" else {}
    published = dict(zip((R34_R18, R50_MV1), IMAGENET.get(name, (None, None)), strict=True))
    assert settings == simkd | {pair: values for pair, values in published.items() if values is not None}


@pytest.mark.parametrize("name", METHODS)
def test_a_file_exposes_its_method(name: str) -> None:
    module = importlib.import_module(f"kdbench.methods.{name}")
    method = load_method(name)
    assert method.__module__ == module.__name__
    assert issubclass(method, Method)
    assert method.FAMILY in {"none", "logits", "features", "relations", "contrast"}
    assert all("\n" not in line for line in method.DEVIATIONS)
