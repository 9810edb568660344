"""t-SNE: what is shown, that it is reproducible, and the files that keep it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdbench.analysis.plots.embeddings import (
    EMBEDDING,
    Embedding,
    embed,
    read_embedding,
    shown_images,
    write_embedding,
)

LABELS = np.repeat(np.arange(4), 30)


def clusters(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(120, 16)) + 12 * np.eye(4, 16)[LABELS]).astype(np.float32)


def test_separate_clusters_stay_separate_and_equal_features_give_equal_points() -> None:
    points = embed(clusters(1))
    assert points.shape == (120, 2)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(120)
    assert (LABELS[distances.argsort(axis=1)[:, :10]] == LABELS[:, None]).all()
    assert np.array_equal(points, embed(clusters(1)))


def test_few_images_can_be_embedded() -> None:
    assert np.isfinite(embed(clusters(2)[:5])).all()


def test_the_first_images_of_the_first_classes_are_shown() -> None:
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(3, 20), 150))
    places = shown_images(labels)
    assert np.array_equal(places, np.sort(places))
    assert np.unique(labels[places], return_counts=True)[0].tolist() == list(range(3, 13))
    assert (np.unique(labels[places], return_counts=True)[1] == 100).all()
    assert places[labels[places] == 5].tolist() == np.flatnonzero(labels == 5)[:100].tolist()


def test_an_embedding_is_kept_with_the_weights_it_is_of(tmp_path: Path) -> None:
    embedding = Embedding(points=clusters(1)[:, :2], labels=LABELS, num_classes=4, weights="abc")
    assert read_embedding(tmp_path, "abc") is None
    write_embedding(tmp_path, embedding)
    kept = read_embedding(tmp_path, "abc")
    assert kept is not None
    assert np.array_equal(kept.points, embedding.points)
    assert (kept.labels.tolist(), kept.num_classes) == (LABELS.tolist(), 4)
    assert read_embedding(tmp_path, "another") is None


@pytest.mark.parametrize("damage", ["cut", "empty", "nan", "shape", "classes", "pickle", "missing"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, damage: str) -> None:
    arrays = {"points": clusters(1)[:, :2], "labels": LABELS, "num_classes": np.int64(4), "weights": np.array("abc")}
    changes = {
        "nan": {"points": np.full((120, 2), np.nan, np.float32)},
        "shape": {"points": np.zeros((7, 2), np.float32)},
        "classes": {"labels": np.arange(120)},
        "pickle": {"points": np.array([{}, 1], dtype=object)},
    }
    kept = {
        key: value
        for key, value in (arrays | changes.get(damage, {})).items()
        if (damage, key) != ("missing", "labels")
    }
    np.savez(tmp_path / EMBEDDING, **kept)  # type: ignore[arg-type]
    content = (tmp_path / EMBEDDING).read_bytes()
    (tmp_path / EMBEDDING).write_bytes({"cut": content[:200], "empty": b""}.get(damage, content))
    assert read_embedding(tmp_path, "abc") is None
