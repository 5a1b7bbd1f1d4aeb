"""Numbers of a request are checked on the server."""

import math

import pytest

from pipeline_anime_ddpm.demo.limits import Refused, checked


def test_numbers_within_the_bounds_are_taken():
    assert [checked(value, 0, 7, "The seed") for value in (0, 7, "3", 2.0)] == [0, 7, 3, 2]
    assert checked("0.5", 0, 1, "The strength", float) == 0.5


@pytest.mark.parametrize("value", [-1, 8, 2.5, True, None, "x", [1], math.nan, math.inf])
def test_other_values_are_refused_with_their_control(value):
    with pytest.raises(Refused, match=r"^The seed must be a whole number from 0 to 7\.$") as refused:
        checked(value, 0, 7, "The seed")
    assert refused.value.field == "seed"
