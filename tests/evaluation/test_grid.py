"""The needle's grid: its axes, several samples to a cell, and the table of it."""

import pytest

from coderv2.errors import InvalidValue
from coderv2.evaluation import grid
from coderv2.evaluation.score import Item


def test_sixteen_lengths_from_a_thousand_tokens_to_128_thousand_and_eleven_depths() -> None:
    assert len(grid.LENGTHS) == 16
    assert (grid.LENGTHS[0], grid.LENGTHS[-1]) == (1000, 128_000)
    steps = {later - sooner for sooner, later in zip(grid.LENGTHS, grid.LENGTHS[1:], strict=False)}
    assert steps == {8000, 9000}
    assert grid.DEPTHS == (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)


def test_axes_are_ascending_and_within_what_a_context_can_be() -> None:
    assert grid.lengths([4000, 1000, 4000]) == (1000, 4000)
    assert grid.depths([100, 0]) == (0, 100)
    for axis, wrong in ((grid.lengths, [100]), (grid.depths, [101]), (grid.depths, [-1]), (grid.lengths, [])):
        with pytest.raises(InvalidValue, match="are from"):
            axis(wrong)


def test_a_cell_is_the_mean_of_its_samples_and_a_line_of_the_table() -> None:
    items = [
        Item("9000/50", 0, "", 0.0, ""),
        Item("1000/100", 0, "", 1.0, ""),
        Item("1000/0", 0, "", 1.0, ""),
        Item("1000/0", 1, "", 1 / 3, ""),
    ]
    assert list(grid.cells(items)) == [(1000, 0), (1000, 100), (9000, 50)]
    assert grid.as_csv(items).decode().splitlines() == [
        "length,depth,found,samples",
        "1000,0,0.6667,2",
        "1000,100,1,1",
        "9000,50,0,1",
    ]
