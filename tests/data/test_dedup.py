import random

from hypothesis import given
from hypothesis import strategies as st

from coderv2.data import dedup
from tests.data.fakes import document


def text_of(words: list[str]) -> str:
    return " ".join(words)


def words(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"word{rng.randrange(10**6)}" for _ in range(count)]


def test_an_exact_copy_is_dropped_whatever_its_white_space() -> None:
    copies = [document("a  b\n"), document("a b"), document("a c")]
    assert [item.dropped for item in dedup.exact(copies)] == [None, "exact duplicate", None]


def test_a_text_with_few_changes_is_a_near_duplicate_and_another_text_is_not() -> None:
    first = words(400, seed=1)
    changed = [*first[:200], "changed", *first[201:]]
    texts = [text_of(first), text_of(changed), text_of(words(400, seed=2))]
    assert [item.dropped for item in dedup.near(map(document, texts))] == [None, "near duplicate", None]


def test_half_the_words_changed_is_no_duplicate() -> None:
    first = words(400, seed=1)
    half = first[:200] + words(200, seed=3)
    assert [item.dropped for item in dedup.near(map(document, map(text_of, [first, half])))] == [None, None]


@given(st.text())
def test_any_text_has_a_signature_that_is_its_own(text: str) -> None:
    assert (dedup.signature(text) == dedup.signature(text)).all()
    assert len(dedup.signature(text)) == dedup.HASHES


def test_signatures_estimate_the_share_of_common_runs() -> None:
    first = words(2000, seed=4)
    mixed = first[:1000] + words(1000, seed=5)
    estimate = (dedup.signature(text_of(first)) == dedup.signature(text_of(mixed))).mean()
    assert 0.15 < estimate < 0.55  # 996 of 2996 runs are common
