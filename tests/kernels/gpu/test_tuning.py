"""Tiles found by timing are those that win, are kept, and are used."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.kernels.gpu.place import DEVICE
from coderv2.kernels.gpu import tiles, tuning

NARROW, WIDE = tiles.Tile(16, 32, 64), tiles.Tile(16, 64, 64)


def test_the_fastest_that_runs_is_taken() -> None:
    tried: list[tiles.Tile] = []

    def run() -> None:
        tried.append(tiles.tile("linear", "int4", 1, 64, 64, DEVICE))

    def timed(work: Callable[[], object]) -> float:
        work()
        if tried[-1].outs == 128:
            raise RuntimeError("out of resource: shared memory")
        return 1 / tried[-1].outs

    case = tuning.Case(tiles.key("linear", "int4", 1, 64, 64), "int4", run)
    found = tuning.best_tile(case, [NARROW, tiles.Tile(16, 128, 64), WIDE], timed)
    assert found == (WIDE, 1 / 64)
    assert len(tried) == 3
    assert tiles.tile("linear", "int4", 1, 64, 64, DEVICE) not in tried or not tiles._FORCED


def test_another_error_is_not_passed_over() -> None:
    def fail() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        tuning.best_tile(tuning.Case("any", "int4", fail), [NARROW], lambda work: [work(), 1.0][1])  # type: ignore[list-item, return-value]


def test_a_table_is_kept_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TABLES", tmp_path)
    name = tiles.card(torch.device("cpu")).name
    key = tiles.key("linear", "int4", 5, 64, 64)
    odd = tiles.Tile(16, 16, 32, warps=1, stages=1)
    tiles.write_table(name, {key: odd}, {key: 1.5})
    try:
        # Rows count in powers of two.
        assert tiles.tile("linear", "int4", 8, 64, 64, torch.device("cpu")) == odd
        assert tiles.tile("linear", "int4", 9, 64, 64, torch.device("cpu")) != odd
    finally:
        tiles._table.cache_clear()


def test_every_candidate_fits_the_memory() -> None:
    for kind, itemsize in (("plain", 2), ("fp8", 1), ("int4", 2)):
        able = tuning.candidates(kind, tiles.SMALL_MEMORY)
        assert able
        assert all(tile.bytes(itemsize) <= tiles.SMALL_MEMORY for tile in able)
        assert all(tile.depth == 128 for tile in able) or kind != "fp8"


def test_defaults_fit_a_desk_card() -> None:
    for kind in ("plain", "fp8", "int4"):
        for rows in (1, 20, 100, 5000):
            tile = tiles.fitting(tiles.DEFAULTS, rows, kind, tiles.SMALL_MEMORY)
            assert tile.bytes(1 if kind == "fp8" else 2) <= tiles.SMALL_MEMORY
            assert tile.rows <= max(tiles.bucket(rows), 16)
