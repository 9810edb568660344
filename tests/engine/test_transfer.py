"""Linear probes: the optimum is scikit-learn's, nothing leaks between the sets, and every kind of data is taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cells import CPU, Typed
from image_folder import write_folder
from sklearn.linear_model import LogisticRegression
from trained_runs import TrainedRuns

import kdbench
from kdbench.data.datasets import load_dataset
from kdbench.engine.probe import fit, fit_probe, split
from kdbench.engine.transfer import transfer, unaugmented
from kdbench.experiment.record_checks import sealed


def blobs(num_images: int, num_classes: int, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clouds of points, one a class."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(num_images) % num_classes
    centres = torch.randn(num_classes, width, generator=draw)
    return centres[labels] + torch.randn(num_images, width, generator=draw), labels


@pytest.mark.parametrize("l2", [0.3, 1e-3])
@pytest.mark.parametrize("num_images", [90, 20_000])  # in one chunk, and in two
def test_the_fit_is_scikit_learns(l2: float, num_images: int) -> None:
    inputs, labels = blobs(num_images, 3)
    reference = LogisticRegression(C=1 / (l2 * num_images), tol=1e-8, max_iter=10_000).fit(inputs.double(), labels)
    weight, converged = fit(inputs, labels, torch.zeros(3, 7), l2)
    assert converged
    ours = (inputs @ weight[:, :-1].T + weight[:, -1]).softmax(dim=1)
    assert np.allclose(ours, reference.predict_proba(inputs.double()), atol=2e-3)


def test_a_fifth_of_each_class_is_held_out() -> None:
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 2 + [3])
    held_out = split(labels)
    assert [int(held_out[labels == label].sum()) for label in range(4)] == [10, 1, 1, 0]
    assert torch.equal(held_out, split(labels))
    assert not held_out[:10].all()  # drawn, not the first ones


def test_units_of_the_features_do_not_matter() -> None:
    inputs, labels = blobs(200, 4)
    constant = torch.full((200, 1), 7.0)
    plain = fit_probe(inputs, labels, 4, CPU)
    moved = fit_probe(torch.cat([inputs * 100 + 5, constant], dim=1), labels, 4, CPU)
    assert (moved.l2, moved.held_out) == (plain.l2, plain.held_out)
    logits = plain.logits(inputs), moved.logits(torch.cat([inputs * 100 + 5, constant], dim=1))
    assert torch.allclose(*logits, atol=1e-2)


def test_the_penalty_is_chosen_by_images_that_are_not_fitted() -> None:
    """Labels that are noise can be learnt by heart by a weak penalty alone, which helps no other image."""
    draw = torch.Generator().manual_seed(1)
    noise, labels = torch.randn(60, 200, generator=draw), torch.arange(60) % 2
    probe = fit_probe(noise, labels, 2, CPU)
    assert probe.held_out == 12
    assert probe.held_out_top1 < 90
    clear = fit_probe(labels[:, None] + 0.1 * noise[:, :3], labels, 2, CPU)
    assert clear.held_out_top1 == 100
    assert clear.logits(torch.tensor([[0.0] * 3, [1.0] * 3])).argmax(dim=1).tolist() == [0, 1]


def test_files_of_any_size_are_resized_and_nothing_is_augmented(
    trained_runs: TrainedRuns, tmp_path: Path, typed: Typed
) -> None:
    folder = write_folder(tmp_path / "images", train=6, val=3)
    word = f"folder:{folder}"
    cells = trained_runs.cells["kd"], trained_runs.cells["simkd"]
    code, out, error = typed("eval", *cells, "--probe", "--data", word, "--json", "--workers", "0")
    assert code == 0, error
    results = json.loads(out)
    assert [result["test_images"] for result in results] == [9, 9]
    assert [result["probe"]["train_images"] for result in results] == [18, 18]
    assert [result["probe"]["width"] for result in results] == [kdbench.load(cell).width for cell in cells]
    again = json.loads(typed("eval", *cells, "--probe", "--data", word, "--json", "--workers", "0")[1])
    assert again == results


def test_the_probe_sees_features_of_the_frozen_network(trained_runs: TrainedRuns, tiny_npz: Path) -> None:
    dataset = load_dataset(f"npz:{tiny_npz}", Path())
    net = kdbench.load(trained_runs.cells["kd"])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = transfer(net, dataset, CPU, lambda *_: None)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    images = torch.cat(list(unaugmented(net, dataset, "train")))
    assert torch.equal(images, net.preprocess(dataset.train_images.permute(0, 3, 1, 2)))
    with torch.no_grad():
        probe = fit_probe(net.features(images), dataset.train_labels, 3, CPU)
        test = net.features(net.preprocess(dataset.test_images.permute(0, 3, 1, 2)))
    hits = probe.logits(test).argmax(dim=1) == dataset.test_labels
    assert result["top1"] == pytest.approx(100 * hits.double().mean().item())
    assert result["probe"]["l2"] == probe.l2
    assert result["top1"] > 60  # stripes are easy


def test_accuracy_on_its_own_test_images_is_the_records(trained_runs: TrainedRuns, typed: Typed) -> None:
    folders = *trained_runs.cells.values(), trained_runs.teacher
    code, out, error = typed("eval", *folders, "--data", f"npz:{trained_runs.npz}", "--json")
    assert code == 0, error
    for folder, result in zip(trained_runs.cells.values(), json.loads(out), strict=False):
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        for name in ("top1", "top5", "nll", "ece", "balanced_accuracy", "macro_f1"):
            assert result[name] == pytest.approx(record[name], rel=1e-5), name
        assert (result["recorded_top1"], result["remarks"]) == (record["top1"], [])
    assert json.loads(out)[-1]["remarks"] == []


def test_what_a_number_may_not_mean_is_said(trained_runs: TrainedRuns, typed: Typed, tmp_path: Path) -> None:
    with np.load(trained_runs.npz) as arrays:
        np.savez("other.npz", **{name: arrays[name][:27] for name in arrays.files})
    kd = trained_runs.cells["kd"]
    code, out, _ = typed("eval", kd, "--data", "npz:other.npz")
    assert code == 0
    assert "warning: npz:other.npz is not the data that resnet8 (kd, seed 1) was trained on" in out
    code, _, error = typed("eval", kd, "--dataset", "digits")
    assert (code, error.count("\n")) == (2, 1)
    assert "digits has 10 classes, and resnet8 (kd, seed 1) 3: type --probe" in error
    code, _, error = typed("eval", kd)
    assert code == 2
    assert "type --data npz:FILE, or --dataset NAME" in error
    wrong = tmp_path / "wrong"
    shutil.copytree(kd, wrong)
    record = json.loads((kd / "record.json").read_text(encoding="utf-8"))
    other = sealed({k: v for k, v in record.items() if k not in {"record_hash", "per_class"}} | {"top1": 0.0})
    (wrong / "record.json").write_text(json.dumps(other), encoding="utf-8")
    code, out, error = typed("eval", wrong, "nothing", "--data", f"npz:{trained_runs.npz}")
    assert code == 2
    assert "its record says 0.00 %" in out
    assert "nothing holds no trained network" in error


def test_the_size_that_an_old_record_lacks_comes_from_its_data(
    trained_runs: TrainedRuns, typed: Typed, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(trained_runs.cells["simkd"], old)
    record = json.loads((old / "record.json").read_text(encoding="utf-8"))
    kept = sealed({name: value for name, value in record.items() if name not in {"input", "record_hash"}})
    (old / "record.json").write_text(json.dumps(kept), encoding="utf-8")
    code, out, error = typed("eval", old, "--data", f"npz:{trained_runs.npz}", "--json")
    assert code == 0, error
    assert json.loads(out)[0]["nll"] == pytest.approx(record["nll"], rel=1e-5)
    code, _, error = typed("eval", old, "--dataset", "digits", "--probe")
    assert code == 2
    assert "does not say how large" in error
