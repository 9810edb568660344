"""Correct p values for multiple comparisons.

Sources: Holm 1979 (Scandinavian J. of Statistics 6:65); Benjamini and Hochberg 1997 (Scandinavian J. of Statistics
24:407) for weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """Adjust p values for multiple comparisons, controlling the family-wise error rate (Holm 1979).

    Parameters
    ----------
    p_values
        One per comparison; nan for a missing comparison, which stays nan and is not counted.
    weights
        Share of each comparison in the error rate, positive; equal shares by default. Comparisons that share the weight
        of one count as one for all others, however many they are.

    Returns
    -------
    list of float
        Adjusted p in the order of the input, at most 1; valid for any dependence between the tests.

    Raises
    ------
    ValueError
        For values outside [0, 1], for weights that are not positive.
    """
    p = np.asarray(p_values, dtype=float).reshape(-1)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p values lie between 0 and 1: {list(p_values)}")
    shares = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=float)
    if shares.shape != p.shape or not (shares > 0).all():
        raise ValueError(f"weights must be positive, one per comparison: {list(shares)} for {len(p)} comparisons")
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p / shares, kind="stable")[: np.count_nonzero(~np.isnan(p))]
    remaining = np.cumsum(shares[order][::-1])[::-1]
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(remaining * p[order] / shares[order]))
    return [float(value) for value in adjusted]
