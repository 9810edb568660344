"""What cells visit is counted without going through their epochs."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace

from cells import make_cell

from kdbench.experiment.protocol import load_protocol
from kdbench.grid import cache_needs
from kdbench.method import ViewPlan
from kdbench.teachers.demand import Wanted


def test_epochs_are_counted_by_what_they_see_as_one_by_one() -> None:
    """Random sets of seeds, plans and epochs, those of pre-training among them."""
    draw = random.Random(14)
    cell = make_cell(load_protocol("digits-demo-v1"), "ce", "resnet14", "resnet8")
    plans = [ViewPlan(), ViewPlan((0, 1)), ViewPlan((0, 1, 2, 3))]
    for _ in range(50):
        reading = []
        for _ in range(draw.randint(1, 6)):
            seeds = draw.sample(range(8), draw.randint(0, 6))
            first = draw.randint(-3, 3)
            want = Wanted(0, draw.choice(plans), frozenset(), range(first, first + draw.randint(1, 6)))
            reading.append(([replace(cell, seed=seed) for seed in seeds], want))
        seen: dict[tuple[int, int], set[ViewPlan]] = {}
        for cells, want in reading:
            for seed, epoch in itertools.product((cell.seed for cell in cells), want.epochs):
                seen.setdefault((seed, epoch), set()).add(want.plan)
        assert cache_needs.epochs_by_plans(reading) == Counter(map(frozenset, seen.values()))


def test_the_count_does_not_grow_with_epochs() -> None:
    cell = make_cell(load_protocol("digits-demo-v1"), "ce", "resnet14", "resnet8")
    want = Wanted(0, ViewPlan(), frozenset(), range(1, 10**15 + 1))
    assert cache_needs.epochs_by_plans([([cell, replace(cell, seed=7)], want)]) == {frozenset([ViewPlan()]): 2 * 10**15}
