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


@given(
    count=st.integers(1, 12),
    size=st.integers(1, 5),
    moves=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=40),
)
def test_free_and_used_are_all_after_any_moves(count: int, size: int, moves: list[tuple[int, int]]) -> None:
    pages = Pages(count, size)
    tables: list[list[int]] = [[], [], [], []]
    for which, tokens in moves:
        if tokens == 0:
            pages.release(tables[which])
        elif pages.grow(tables[which], tokens):
            assert len(tables[which]) * size >= tokens
        pages.check(tables)
