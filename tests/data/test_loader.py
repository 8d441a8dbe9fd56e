from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.data import shards
from coderv2.data.loader import Loader, LoaderState


def shard_of(folder: Path, lengths: list[int]) -> shards.Shard:
    shards.write(folder, ([number] * length for number, length in enumerate(lengths)), 600)
    return shards.Shard(folder)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 40))
def test_rows_hold_whole_examples_and_an_epoch_holds_each_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], room: int
) -> None:
    loader = Loader(shard_of(tmp_path_factory.mktemp("shard"), lengths), room, seed=1)
    seen: list[int] = []
    while len(seen) < len(lengths):
        row = loader.next_row()
        assert sum(map(len, row)) <= room
        assert all(len(example) == min(lengths[example.ids[0]], room) for example in row)
        seen += [int(example.ids[0]) for example in row]
    assert sorted(seen[: len(lengths)]) == list(range(len(lengths)))


def test_it_says_how_many_examples_a_row_cuts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = shard_of(tmp_path, [3, 5, 9, 9])
    Loader(shard, 9, seed=0)
    assert not caplog.records
    Loader(shard, 8, seed=0)
    assert "2 of 4 examples are longer than a row of 8 tokens" in caplog.text


def test_a_loader_goes_on_from_its_state(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, [3, 5, 2, 7, 4, 1])
    loader = Loader(shard, 8, seed=3)
    for _ in islice(loader, 5):
        pass
    again = Loader(shard, 8, seed=3, state=loader.state)
    for _ in range(10):
        assert [e.ids.tolist() for e in again.next_row()] == [e.ids.tolist() for e in loader.next_row()]


def test_epochs_and_seeds_have_orders_of_their_own(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, [1] * 50)
    first, other = Loader(shard, 50, seed=0), Loader(shard, 50, seed=1)
    orders = [[int(e.ids[0]) for e in row] for row in (first.next_row(), first.next_row(), other.next_row())]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert first.state == LoaderState(epoch=2, position=0)
