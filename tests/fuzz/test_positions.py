"""A few seconds of the networks that ``make fuzz`` makes as many of as one likes."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.measured import Measured
from tests.fuzz.positions import Positions

SEED, SOME = 13, 30


def test_networks() -> None:
    positions = Positions()
    outcomes = [positions.one(random.Random(f"{SEED}/{index}")) for index in range(SOME)]
    assert outcomes.count("refused") <= 0.1 * SOME
    assert positions.layers["right"] >= 1.5 * SOME


@pytest.mark.parametrize(
    "case",
    [
        "201/21",  # text and a token of no place, measured as one position more
        "201/61",  # measured as a grid along the colours
        "202/186",  # measured as one row more
        "202/643",  # measured on an input that is cut at one end
        # Behind a sum over positions: a maximum, cells of padding, what a norm or an outlier outweighs.
        *("202/145", "201/632", "201/249", "201/482", "201/856", "201/1691", "201/1811"),
        "203/620",  # measured behind convolutions without padding
        "203/1329",  # two positions of an enlarged map look at the same
        "202/1092",  # a padded convolution whose borders are what is left
    ],
)
def test_networks_that_were_wrong_once(case: str) -> None:
    Positions().one(random.Random(case))


def test_networks_of_which_every_layer_is_measured() -> None:
    found = Measured()
    for index in range(8):
        found.one(random.Random(f"{SEED}/{index}"))
    assert found.layers["right"] >= 12
    for case in ("501/23", "501/33", "501/61", "502/53"):  # grids, and tokens of no place, that were mistaken
        found.one(random.Random(case))
