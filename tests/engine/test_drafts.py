import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.engine.drafts import NGRAM_TRUST, PREDICTION_TRUST, Drafter, Source

FILE = [n % 97 + 100 for n in range(300)]


def follow(answer: list[int], prediction: list[int]) -> list[list[int]]:
    """What a drafter proposes before each token of `answer`, four at a time."""
    tokens = [1]
    drafter = Drafter(tokens, prediction)
    proposed = []
    for token in answer:
        proposed.append(drafter.propose(4)[0])
        tokens.append(token)
        drafter.observe()
    return proposed


def right(proposed: list[list[int]], answer: list[int]) -> list[bool]:
    """Where the first proposed token was the one that came."""
    return [draft[:1] == [token] for draft, token in zip(proposed, answer, strict=True)]


def test_a_prediction_is_proposed_from_its_beginning() -> None:
    assert follow([100, 101], [100, 101, 102, 103, 104, 105]) == [[100, 101, 102, 103], [101, 102, 103, 104]]


def test_nothing_is_proposed_beyond_the_end_of_a_prediction() -> None:
    assert follow([7, 8, 9], [7, 8]) == [[7, 8], [8], []]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("inserted", [*FILE[:50], 1, 2, 3, 4, 5, *FILE[50:90]]),
        ("deleted", [*FILE[:50], *FILE[60:90]]),
        ("replaced", [*FILE[:50], 1, 2, 3, *FILE[55:90]]),
    ],
)
def test_after_a_change_two_tokens_are_enough_to_find_the_place_again(name: str, answer: list[int]) -> None:
    hits = right(follow(answer, FILE), answer)
    assert all(hits[:50])
    assert hits[-20:] == [True] * 20
    assert hits.count(False) <= 8


def test_a_text_that_repeats_itself_is_taken_up_at_the_nearest_place_ahead() -> None:
    # Both functions end alike: after a change in the first, its own end is proposed and not the second's.
    end = [50, 51, 52]
    text = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, *end, 20, 21, 22, *end, 30, 31]
    answer = [*text[:9], 99, *end, 20, 21]
    assert follow(answer, text)[-1] == [21, 22, 50, 51]


def test_what_was_written_before_is_proposed_again() -> None:
    answer = [10, 11, 12, 13, 14, 15, 10, 11, 12]
    assert follow([*answer, 13], [])[-1] == [13, 14, 15, 10]


def test_of_several_places_in_what_was_written_the_last_is_taken() -> None:
    answer = [10, 11, 12, 1, 10, 11, 12, 2, 10, 11, 12]
    assert follow([*answer, 0], [])[-1][:1] == [2]


def test_a_source_that_is_always_wrong_loses_trust_and_one_that_is_right_gains_it() -> None:
    wrong = Source([5, 6] * 200, 2, PREDICTION_TRUST, place=0)
    answer: list[int] = []
    for _ in range(100):
        answer += [5, 6, 9]
        for end in range(len(answer) - 2, len(answer) + 1):
            wrong.observe(answer[:end])
    answer += [5, 6]
    wrong.observe(answer[:-1])
    wrong.observe(answer)
    _, chances = wrong.propose(1)
    assert chances[0] < 0.6
    tokens = [1, 2, 3, 4] * 3
    good = Source(tokens, 3, NGRAM_TRUST, place=None)
    for _ in range(100):
        tokens.append(tokens[-4])
        good.observe(tokens)
    assert good.propose(1)[1][0] > 0.95


@given(
    prediction=st.lists(st.integers(0, 5), max_size=60),
    prompt=st.lists(st.integers(0, 5), min_size=1, max_size=30),
    answer=st.lists(st.integers(0, 5), max_size=60),
    count=st.integers(0, 9),
)
def test_whatever_is_written_proposals_are_short_enough_and_have_chances(
    prediction: list[int], prompt: list[int], answer: list[int], count: int
) -> None:
    tokens = list(prompt)
    drafter = Drafter(tokens, prediction)
    for token in answer:
        draft, chances = drafter.propose(count)
        assert len(draft) == len(chances) <= count
        assert all(0 <= chance <= 1 for chance in chances)
        tokens.append(token)
        drafter.observe()
