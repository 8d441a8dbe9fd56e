from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.data import shards
from coderv2.errors import BadData


@given(st.lists(st.lists(st.integers(0, 599), min_size=1)), st.sampled_from([600, 100_000]))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[int]], size: int
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    tokens = shards.write(folder, [[0], *texts], size)
    shard = shards.Shard(folder)
    assert [example.ids.tolist() for example in shard] == [[0], *texts]
    assert all(example.trained.all() for example in shard)
    assert shard.tokens == tokens == 1 + sum(map(len, texts))


def test_which_tokens_are_trained_is_kept(tmp_path: Path) -> None:
    shards.write(tmp_path, [([1, 2, 3], [False, True, True]), [4]], 600)
    first, second = shards.Shard(tmp_path)
    assert (first.trained.tolist(), second.trained.tolist()) == ([False, True, True], [True])


@pytest.mark.parametrize(("vocabulary", "width"), [(65_536, 2), (65_537, 4)])
def test_ids_take_two_bytes_where_they_fit(tmp_path: Path, vocabulary: int, width: int) -> None:
    shards.write(tmp_path, [[1, vocabulary - 1]], vocabulary)
    assert (tmp_path / "tokens.bin").stat().st_size == 2 * width
    assert shards.Shard(tmp_path)[0].ids.tolist() == [1, vocabulary - 1]


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    shards.write(tmp_path, [[1, 2, 3]], 600)
    np.array([1], dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    with pytest.raises(BadData, match="holds 1 tokens, its bounds say 3"):
        shards.Shard(tmp_path)


def test_an_example_of_no_token_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="example 1 has no token"):
        shards.write(tmp_path, [[1, 2], [], [3]], 600)


def test_an_empty_shard_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no token"):
        shards.write(tmp_path, [], 600)


def test_a_folder_without_a_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="not a token shard"):
        shards.Shard(tmp_path)
