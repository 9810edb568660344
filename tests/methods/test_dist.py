"""DIST: correlations of predictions."""

from __future__ import annotations

import pytest
import torch
from random_outputs import random_scores

from kdbench.methods import dist

pytestmark = pytest.mark.once


def test_dist_ignores_the_scale_of_correlated_predictions() -> None:
    """Pearson's correlation does not change when predictions are stretched about their mean; it is 1 at equality."""
    ours, theirs = random_scores(0), random_scores(1)
    for dim in (0, 1):
        plain = dist.pearson(ours, theirs, dim=dim, epsilon=0)
        torch.testing.assert_close(plain, dist.pearson(3 * ours + 1, 0.5 * theirs - 2, dim=dim, epsilon=0))
        torch.testing.assert_close(dist.pearson(ours, ours, dim=dim, epsilon=0), torch.ones_like(plain))
        torch.testing.assert_close(
            plain[0], torch.corrcoef(torch.stack([x.select(1 - dim, 0) for x in (ours, theirs)]))[0, 1]
        )
    inter, intra = dist.relation_losses(ours, ours, 4.0, 1e-8)
    assert max(inter, intra) < 1e-3
    assert dist.relation_losses(ours[:1], ours[:1], 4.0, 1e-8)[1] == 16
