"""DiffKD; what is drawn in a step is an input."""

from __future__ import annotations

from unittest import mock

import torch
from parity_files import Case
from stub_nets import stub_batch, stub_setup

from kdbench.methods import _denoising, diffkd
from kdbench.net import Outputs
from parity._wiring import Values, gradients, load_weights, logit_sides, net_of, state, total, weight_leaves

OF_MAPS = {
    "encoder.": "feature.ae.encoder.",
    "decoder.": "feature.ae.decoder.0.",
    "of_maps.times.": "feature.model.time_embedding.",
    "of_maps.model.": "feature.model.pred.",
    "of_maps.level.": "feature.noise_adapter.feat.0.",
}
OF_LOGITS = {
    "of_logits.times.": "logit.model.time_embedding.",
    "of_logits.model.": "logit.model.pred.",
    "of_logits.level.": "logit.noise_adapter.feat.",
}
NAMES = OF_MAPS | OF_LOGITS
for ours, theirs in (("of_maps", "feature"), ("of_logits", "logit")):
    NAMES |= {f"{ours}.trans.": f"{theirs}.trans.", f"{ours}.proj.": f"{theirs}.proj."}
    NAMES[f"{ours}.level_head."] = f"{theirs}.noise_adapter.pred."


def computed(case: Case) -> Values:
    logits, teacher, targets = logit_sides(case)
    has = {kind: f"in.{kind}.timesteps" in case.arrays for kind in ("feature", "logit")}
    ours = case.tensor("in.feat_s", grad=True) if has["feature"] else torch.zeros(len(targets), 6, 4, 4)
    theirs = case.tensor("in.feat_t") if has["feature"] else torch.zeros(len(targets), 12, 4, 4)
    weight = case.value("hp.kd_weight")
    settings = {}
    if has["feature"]:
        settings["autoencoder"] = bool(case.value("hp.use_ae"))
        settings["code_ratio"] = case.value("hp.ae_channels") / theirs.shape[1]
    config = diffkd.DiffKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        feature_weight=weight * has["feature"],
        logit_weight=weight * has["logit"],
        temperature=case.value("hp.tau"),
        num_steps=int(case.value("hp.inference_steps")),
        **settings,
    )
    assert case.value("hp.num_train_timesteps") == _denoising.NUM_TIMES
    powers = _denoising.signal_powers(case.value("hp.beta_start"), case.value("hp.beta_end"))
    assert torch.equal(powers, _denoising.signal_powers())

    nets = [net_of([maps], num_classes=logits.shape[1]) for maps in (ours, theirs)]
    method = diffkd.DiffKD(config, stub_setup(*nets)).to(case.dtype)
    load_weights(case, method, NAMES)
    kinds = [kind for kind in has if has[kind]]
    noises = [case.tensor(f"in.{kind}.noise_{of}") for kind in kinds for of in ("student", "ddim")]
    times = [case.tensor(f"in.{kind}.timesteps") for kind in kinds]
    outputs = Outputs("student", logits=logits, stages=(ours,)), Outputs("teacher", logits=teacher, stages=(theirs,))

    seen: dict[str, torch.Tensor] = {}
    for kind, name in (("feature", "of_maps"), ("logit", "of_logits")):
        if has[kind]:
            part = method.get_submodule(name)
            part.register_forward_hook(lambda *given, kind=kind: seen.__setitem__(f"out.{kind}.refined", given[2]))
    with (
        mock.patch.object(_denoising, "draw_noise", side_effect=noises),
        mock.patch.object(_denoising, "draw_times", side_effect=times),
    ):
        terms = method.loss(*outputs, stub_batch(targets))
    yield "out.ce", terms["ce"] / config.ce_weight
    stored = {
        "feature": "feature.mse",
        "feature_noise": "feature.ddim",
        "reconstruction": "feature.reconstruction",
        "logit": "logit.kl",
        "logit_noise": "logit.ddim",
    }
    for name, key in stored.items():
        if name in terms:
            yield f"out.{key}", terms[name] / weight
    yield from seen.items()
    loss = total(terms)
    yield "out.total", loss
    loss.backward()
    yield from gradients({"logits_s": logits, "feat_s": ours} | weight_leaves(method, NAMES))
    yield from state(method, NAMES)
    if has["feature"]:
        yield "out.feature.noise_level", method.of_maps.noise_level(method.of_maps.trans(ours))
        if config.autoencoder:
            yield "out.feature.hidden_t", method.encoder(theirs)
    if has["logit"]:
        yield "out.logit.noise_level", method.of_logits.noise_level(method.of_logits.trans(logits[:, :, None, None]))
