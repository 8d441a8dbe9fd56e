import random

from hypothesis import given
from hypothesis import strategies as st

from coderv2.engine.prefix import Chain, salt

SALT = salt("exact", "")


@given(st.lists(st.integers(0, 2), max_size=30), st.lists(st.integers(0, 2), max_size=30), st.integers(1, 4))
def test_pages_have_one_digest_exactly_when_all_tokens_up_to_their_end_are_equal(
    a: list[int], b: list[int], size: int
) -> None:
    ours, theirs = (Chain(SALT).digests(tokens, size, len(tokens) // size) for tokens in (a, b))
    for place, (mine, other) in enumerate(zip(ours, theirs, strict=False), 1):
        assert (mine == other) == (a[: place * size] == b[: place * size])


def test_digests_asked_for_bit_by_bit_are_those_asked_for_at_once() -> None:
    tokens = random.Random(0).choices(range(100_000), k=64)
    grown = Chain(SALT)
    for pages in (1, 3, 2, 8):
        grown.digests(tokens[: pages * 8], 8, pages)
    assert grown.digests(tokens, 8, 8) == Chain(SALT).digests(tokens, 8, 8)


def test_salts_keep_kinds_and_owners_apart() -> None:
    given = [
        ("exact", ""),
        ("exact", "a"),
        ("exact",),
        ("shifted", "a"),
        ("exact", "a", ""),
        ("exact", "a\0"),
    ]
    assert len({salt(*names) for names in given}) == len(given)
