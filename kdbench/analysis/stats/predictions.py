"""Compare what two networks predict for the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.stats import binomtest

from kdbench.experiment.predictions import Predictions


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Contingency:
    """Numbers of images by which of two networks is right."""

    both_right: int
    only_first: int
    """Images that only the first network gets right."""
    only_second: int
    both_wrong: int
    same_wrong: int
    """Of ``both_wrong``, those for which both predict the same class."""

    @classmethod
    def of(cls, first: Predictions, second: Predictions) -> Contingency:
        """Count the images of two predictions.

        Raises
        ------
        ValueError
            They are not for the same images.
        """
        if first.num_classes != second.num_classes or not np.array_equal(first.labels, second.labels):
            raise ValueError("the two have different test images")
        one, other = first.predicted == first.labels, second.predicted == second.labels
        wrong = ~one & ~other
        return cls(
            both_right=int((one & other).sum()),
            only_first=int((one & ~other).sum()),
            only_second=int((other & ~one).sum()),
            both_wrong=int(wrong.sum()),
            same_wrong=int((wrong & (first.predicted == second.predicted)).sum()),
        )

    @property
    def num_images(self) -> int:
        """Number of images."""
        return self.both_right + self.only_first + self.only_second + self.both_wrong

    @property
    def agreement(self) -> float:
        """Fraction of images for which both predict the same class."""
        return (self.both_right + self.same_wrong) / self.num_images

    @property
    def error_overlap(self) -> float:
        """Fraction of the images that one or both get wrong which both get wrong; nan without any error."""
        wrong = self.num_images - self.both_right
        return self.both_wrong / wrong if wrong else math.nan

    @property
    def same_errors(self) -> float:
        """Fraction of the images that both get wrong which get the same class; nan without such images."""
        return self.same_wrong / self.both_wrong if self.both_wrong else math.nan

    @property
    def p(self) -> float:
        """Two-sided p of McNemar's test that both networks are right equally often.

        It is the exact one, from the binomial distribution of the images that one network alone gets right (McNemar,
        Psychometrika 1947; Dietterich, Neural Computation 1998, section 3.1); 1 without such images.
        """
        differing = self.only_first + self.only_second
        return float(binomtest(self.only_first, differing).pvalue) if differing else 1.0
