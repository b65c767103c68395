"""A few seconds of the networks that ``make fuzz`` makes as many of as one likes."""

from __future__ import annotations

import random

from tests.fuzz.positions import Positions

SEED, SOME = 13, 30


def test_networks() -> None:
    positions = Positions()
    outcomes = [positions.one(random.Random(f"{SEED}/{index}")) for index in range(SOME)]
    assert outcomes.count("refused") <= 0.1 * SOME
    assert positions.layers["right"] >= 1.5 * SOME
