"""Contestants of bench/ in processes of their own."""

import os
from collections import Counter

import measure
import pytest


def test_contestant_answers_from_a_process_of_its_own():
    with measure.Contestant(Counter, "aab") as contestant:
        assert contestant("most_common", 1) == [("a", 2)]
        contestant("update", "bb")
        assert contestant("most_common", 1) == [("b", 3)]
        assert contestant(os.getpid) != os.getpid()
        times = measure.take_turns({"counter": contestant}, 2, "update", ("c",), 3)
        assert contestant("__getitem__", "c") == 2 * 3
        assert len(times["counter"]) == 2 and min(times["counter"]) > 0


def test_error_of_a_contestant_reaches_the_caller():
    with pytest.raises(ValueError, match="invalid literal"):
        measure.Contestant(int, "no number")


def test_ratio_is_of_each_round():
    assert measure.ratio([1.0, 3.0, 4.0], [2.0, 2.0, 2.0]) == "1.50 (0.50 - 2.00)"
