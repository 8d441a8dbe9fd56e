import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.engine.pages import Pages


def test_a_table_grows_by_whole_pages_and_only_when_it_has_to() -> None:
    pages, table = Pages(4, 8), list[int]()
    assert pages.grow(table, 9)
    assert len(table) == 2
    assert pages.grow(table, 16)
    assert len(table) == 2
    assert pages.used == 2


def test_too_few_free_pages_change_nothing() -> None:
    pages, table = Pages(2, 8), list[int]()
    assert pages.grow(table, 8)
    before = list(table)
    assert not pages.grow(table, 25)
    assert table == before
    pages.check([table])


def test_a_page_cannot_be_freed_twice() -> None:
    pages, table = Pages(2, 8), list[int]()
    pages.grow(table, 8)
    copy = list(table)
    pages.release(table)
    with pytest.raises(KeyError):
        pages.release(copy)


@pytest.mark.parametrize("tables", [[[0], [0]], [[]], [[0, 1]], [[5]]])
def test_check_finds_a_page_given_twice_or_forgotten_or_invented(tables: list[list[int]]) -> None:
    pages, table = Pages(3, 4), list[int]()
    pages.grow(table, 4)
    assert table == [0]
    pages.check([[0], []])
    with pytest.raises(AssertionError):
        pages.check(tables)


DIGESTS = [bytes([i]) * 32 for i in range(6)]


def full(pages: Pages, table: list[int], digests: list[bytes]) -> None:
    """What happens when the model has filled the table's first pages."""
    for page, digest in zip(table, digests, strict=False):
        pages.publish(page, digest)


def test_published_pages_are_shared_and_outlive_their_holder() -> None:
    pages, first, second, third = Pages(8, 4), list[int](), list[int](), list[int]()
    assert pages.claim(first, 9, DIGESTS[:2]) == 0
    full(pages, first, DIGESTS[:2])
    assert pages.claim(second, 10, DIGESTS[:2]) == 2
    assert (second[:2], second[2:] == first[2:]) == (first[:2], False)
    pages.check([first, second])
    pages.release(first)
    pages.release(second)
    assert (pages.used, pages.idle, pages.available) == (0, 2, 8)
    assert pages.claim(third, 10, [DIGESTS[0], DIGESTS[5]]) == 1


def test_a_claim_that_cannot_be_met_changes_nothing() -> None:
    pages, first, second = Pages(3, 4), list[int](), list[int]()
    pages.claim(first, 8, [])
    full(pages, first, DIGESTS[:2])
    pages.release(first)
    # Two idle pages would be shared, so they cannot also be what is taken for the rest.
    assert pages.claim(second, 16, DIGESTS[:2]) is None
    assert (second, pages.idle, pages.available) == ([], 2, 3)


def test_idle_pages_are_taken_when_none_is_free_the_end_of_a_chain_first() -> None:
    pages, first, second = Pages(3, 4), list[int](), list[int]()
    pages.claim(first, 12, [])
    full(pages, first, DIGESTS[:3])
    pages.release(first)
    assert pages.grow(second, 4)
    assert [len(pages.find(DIGESTS[:k])) for k in (1, 2, 3)] == [1, 2, 2]


def test_of_two_equal_pages_the_first_stays_the_known_one() -> None:
    pages, first, second = Pages(4, 4), list[int](), list[int]()
    pages.grow(first, 4)
    pages.grow(second, 4)
    full(pages, first, DIGESTS)
    full(pages, second, DIGESTS)
    assert pages.find(DIGESTS[:1]) == first
    pages.release(second)
    assert pages.idle == 0
    pages.check([first])


def test_check_finds_a_page_that_is_not_full_in_two_tables() -> None:
    pages, table = Pages(3, 4), list[int]()
    pages.grow(table, 4)
    pages._hold(table[0])
    with pytest.raises(AssertionError, match="not full"):
        pages.check([table, table])


def test_forgotten_pages_are_free_and_held_ones_cannot_be_forgotten() -> None:
    pages, table = Pages(3, 4), list[int]()
    pages.grow(table, 8)
    full(pages, table, DIGESTS)
    with pytest.raises(AssertionError, match="2 pages"):
        pages.forget()
    pages.release(table)
    pages.forget()
    assert (pages.idle, pages.available, pages.find(DIGESTS)) == (0, 3, [])
    pages.check([])


class Shelf:
    """A tier that keeps digests, and refuses some as damaged."""

    def __init__(self) -> None:
        self.saved: set[bytes] = set()
        self.damaged: set[bytes] = set()

    def load(self, digest: bytes, page: int) -> bool:
        return digest in self.saved - self.damaged

    def save(self, digest: bytes, page: int) -> None:
        self.saved.add(digest)


def test_evicted_pages_go_to_the_tier_and_come_back_from_it() -> None:
    shelf = Shelf()
    pages, table = Pages(3, 4, shelf), list[int]()
    pages.claim(table, 12, DIGESTS[:3])
    full(pages, table, DIGESTS[:3])
    pages.release(table)
    pages.grow(table, 12)
    assert shelf.saved == set(DIGESTS[:3])
    pages.release(table)
    shelf.damaged = {DIGESTS[2]}
    assert pages.claim(table, 12, DIGESTS[:3]) == 2
    pages.check([table])


@given(
    count=st.integers(1, 12),
    size=st.integers(1, 5),
    tiered=st.booleans(),
    moves=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 6)), max_size=40),
)
def test_the_books_agree_after_any_moves(
    count: int, size: int, tiered: bool, moves: list[tuple[int, int, int]]
) -> None:
    pages = Pages(count, size, Shelf() if tiered else None)
    tables: list[list[int]] = [[], [], [], []]
    for which, tokens, known in moves:
        table, digests = tables[which], DIGESTS[: min(known, tokens // size)]
        if tokens == 0:
            pages.release(table)
        elif not table:
            pages.claim(table, tokens, digests)
            full(pages, table, digests)
        elif pages.grow(table, tokens):
            assert len(table) * size >= tokens
        pages.check(tables)
