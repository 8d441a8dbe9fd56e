from random import Random

from hypothesis import given
from hypothesis import strategies as st

from coderv2.engine.luck import Luck


@given(st.integers(0, 2**64), st.lists(st.integers(0, 60), min_size=1, max_size=30))
def test_a_places_number_is_the_same_in_whatever_order_it_is_asked_for(seed: int, places: list[int]) -> None:
    random, luck = Random(seed), Luck(seed)
    in_order = [random.random() for _ in range(61)]
    assert [luck.at(place) for place in places] == [in_order[place] for place in places]


def test_opposite_seeds_are_two_seeds() -> None:
    assert Luck(-1).at(0) != Luck(1).at(0)
