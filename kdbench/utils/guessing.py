"""Tell accuracies from those of guessing."""

from __future__ import annotations

from scipy.special import bdtrc

_CHANCE = 1e-4
"""Probability of an accuracy by guessing, above which it may come from guessing."""


def is_guess(top1: float, num_images: int, largest_class: int) -> bool:
    """Return whether a test accuracy cannot be told from that of naming the largest class every time.

    Parameters
    ----------
    top1
        In percent.
    num_images, largest_class
        Images of the test set, and of its largest class.
    """
    right = round(top1 / 100 * num_images)
    return right == 0 or bool(bdtrc(right - 1, num_images, largest_class / num_images) > _CHANCE)
