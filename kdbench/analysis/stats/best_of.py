"""The best of a few trials, as a search of fewer trials would have found it."""

from __future__ import annotations

import math
from collections.abc import Sequence


def expected_best(scores: Sequence[float], number: int) -> float:
    """Return the mean of the best score over all subsets of a size, exactly.

    Parameters
    ----------
    scores
        Of all trials, in any order.
    number
        Trials of a subset, from 1 to the number of scores.

    References
    ----------
    J. Dodge et al., Expected Validation Performance and Estimation of a Random Variable's Maximum, Findings of EMNLP
    2021 (arXiv 2110.00613): the estimator without bias, of sampling without replacement.
    """
    # The score at a place is the best of the subsets that it forms with others of the lower places.
    subsets = math.comb(len(scores), number)
    return sum(score * (math.comb(place, number - 1) / subsets) for place, score in enumerate(sorted(scores)))
