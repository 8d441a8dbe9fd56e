"""Tiles found by timing are those that win, are kept as they are found, and are used where they are nearest."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kernels.gpu.place import DEVICE
from coderv2.kernels.gpu import experts, linear, pairs, sorting, tiles, trials, tuning

CPU = torch.device("cpu")
NARROW, WIDE, LARGE = tiles.Tile(16, 32, 64), tiles.Tile(16, 64, 64), tiles.Tile(16, 128, 64)
SMALL = trials.Layer(64, 32, 4, 2, 1, 96, ((48, 64),))
KINDS = ("plain", "fp8", "int4")
Calls = Sequence[Callable[[], object]]


@pytest.fixture(autouse=True)
def no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One of its own for each test."""
    monkeypatch.setattr(tiles, "TABLES", tmp_path)
    yield
    for kept in (tiles._table, tiles._measured):
        kept.cache_clear()


def a_case() -> trials.Linear:
    return trials.Linear("int4", 1, 64, 64)


def forced_now(case: trials.Case) -> tiles.Tile:
    return tiles._FORCED[case.key]


def test_the_fastest_that_runs_is_taken_and_what_does_not_run_is_noted() -> None:
    case, table = a_case(), tiles.Table("a card")

    def timed(_: Calls) -> float:
        tile = forced_now(case)
        if tile is LARGE:
            raise ValueError("whatever a compiler says")
        return 1 / tile.outs

    assert tuning.best_tile(case, [], [NARROW, LARGE, WIDE], table, timed) == (WIDE, 1 / 64)
    assert [(key, "whatever a compiler says" in why) for key, why in table.refused.items()] == [
        (f"{case.key}: {LARGE}", True)
    ]
    assert tiles.Table.read("a card") == table, "a crash after it loses nothing"
    assert not tiles._FORCED


def test_what_was_refused_is_not_tried_again() -> None:
    case, card = a_case(), tiles.card(CPU)
    first, *rest = tuning.untried(case, tiles.Table("any"), card)
    assert tuning.untried(case, tiles.Table("any", refused={f"{case.key}: {first}": "spills"}), card) == rest


def test_a_run_that_is_ended_goes_on_where_it_was() -> None:
    timed_for: list[str] = []

    def until(most: int) -> Callable[[Calls], float]:
        def timed(_: Calls) -> float:
            (key,) = tiles._FORCED
            if key not in timed_for and len(set(timed_for)) == most:
                raise KeyboardInterrupt
            timed_for.append(key)
            return 1.0

        return timed

    keys = [case.key for case in trials.cases(SMALL, KINDS)]
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(SMALL, CPU, kinds=KINDS, timed=until(3), ahead=False)
    assert set(tiles.Table.read(tiles.card(CPU).name).tiles) == set(keys[:3])
    before = len(timed_for)
    tuning.tune(SMALL, CPU, kinds=KINDS, timed=until(len(keys)), ahead=False)
    assert set(tiles.Table.read(tiles.card(CPU).name).tiles) == set(keys)
    assert not set(timed_for[:before]) & set(timed_for[before:]), "what is known is not timed again"


def test_the_nearest_measured_tile_is_used() -> None:
    odd, other = tiles.Tile(16, 16, 32, warps=1, stages=1), tiles.Tile(16, 16, 64, warps=1, stages=1)
    name = tiles.card(CPU).name
    key = [tiles.key("linear", "int4", rows, 64, 64) for rows in (8, 32)]
    tiles.Table(name, dict(zip(key, (odd, other), strict=True))).write()

    def found(rows: int, itemsize: int = 2) -> tiles.Tile:
        return tiles.tile("linear", "int4", rows, 64, 64, CPU, itemsize)

    assert [found(rows) for rows in (2, 5, 8, 9, 16)] == [odd] * 5, "the smaller of two that are as near"
    assert [found(rows) for rows in (17, 32, 33, 128)] == [other] * 4
    assert found(1) == tiles.fitting(tiles.DEFAULTS, 1, "int4", tiles.SMALL_MEMORY), "too far away"
    assert found(129) not in (odd, other)
    assert found(8, itemsize=4) != odd, "measured for bfloat16"
    assert tiles.tile("linear", "int4", 8, 64, 128, CPU) != odd


def products(T: int, layer: trials.Layer) -> Iterator[tuple[str, str, int, int, int]]:
    """What a pass of T tokens looks up."""
    D, F, E, K, _, dense, plain = vars(layer).values()
    few = T <= experts.FEW
    for kind in KINDS:
        for O, I in ((F, D), (D, F)):
            yield "pairs" if few else "experts", kind, T if few else max(T * K // E, 1), O, I
        for O, I in ((dense, D), (D, dense)) if few or kind != "plain" else ():
            yield "pairs" if few else "experts", kind, T, O, I
        for O, I in plain if kind != "plain" else ():
            yield "linear", kind, T, O, I


def test_every_product_of_lite_finds_a_measured_tile() -> None:
    cases = list(trials.cases(trials.LITE, KINDS))
    assert len({case.key for case in cases}) == len(cases), "a product is tuned once"
    odd = tiles.Tile(16, 16, 16)
    tiles.Table(tiles.card(CPU).name, {case.key: odd for case in cases}).write()
    tokens = (*range(1, 40), 64, 100, 128, 256, 500, 512, 1024, 2048, 4096, 8192)
    missed = {
        wanted for T in tokens for wanted in products(T, trials.LITE) if tiles.tile(*wanted, CPU) != odd
    }
    assert missed == set()


def test_single_pairs_and_sorted_ones_have_tiles_of_their_own() -> None:
    plans = [trials.Experts("plain", T, 64, 32, 64, 6, 2, True)._plan for T in (1, 8, 9, 21)]
    assert [(plan.op, plan.rows) for plan in plans] == [
        ("pairs", 1), ("pairs", 8), ("experts", 1), ("experts", 1)
    ]  # fmt: skip


class Launches:
    """In place of a kernel: notes how it was started."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *_, **constants: self.seen.append((grid, tuple(sorted(constants.items()))))


def test_no_two_candidates_start_the_same_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = Launches()
    for module, name in (
        (pairs, "multiply"), (linear, "_linear"), (linear, "_round_rows"), (sorting, "_count"), (sorting, "_place")
    ):  # fmt: skip
        monkeypatch.setattr(module, name, launches)
    monkeypatch.setattr(tiles, "card", lambda _: tiles.Card("an H200", 132, 227 << 10))
    for case in trials.cases(SMALL, KINDS):
        call = case.calls(CPU)[0]
        able = trials.candidates(case.op, case.kind, case.rows, 227 << 10)
        started = set()
        for tile in able:
            launches.seen.clear()
            with tiles.forced({case.key: tile}):
                call()
            started.add(tuple(launches.seen))
        assert len(started) == len(able) > 1, case


AHEAD = """
from triton.runtime.driver import driver
from coderv2.kernels.gpu import tiles, trials, tuning
from tests.kernels.gpu.compiled import Absent
driver.set_active(Absent(90))
case, card = trials.Experts("fp8", 12, 64, 64, 4, 2, 2, True), tiles.Card("an H200", 132, 227 << 10)
print(tuning.compile_only(case, [tiles.Tile(16, 32, 128), tiles.Tile(16, 64, 128)], card))
"""


@pytest.mark.slow
def test_launches_are_compiled_before_they_are_timed(tmp_path: Path) -> None:
    # In a process of its own, as it is done: in this one Triton may interpret.
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    kept = plain | {"TRITON_CACHE_DIR": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", AHEAD], env=kept, capture_output=True, text=True, check=True)
    assert ran.stdout == "2\n", ran.stderr
    kernels = sorted(path.stem for path in tmp_path.rglob("*.cubin"))
    assert kernels == ["_count", "_place", "_round_rows", "multiply", "multiply"]


def test_all_of_lite_is_minutes_of_work() -> None:
    cases = trials.cases(trials.LITE, KINDS)
    able = [trials.candidates(case.op, case.kind, case.rows, 227 << 10) for case in cases]
    assert sum(map(len, able)) < 800


@pytest.mark.parametrize("shared", [tiles.SMALL_MEMORY, 163 << 10, 227 << 10])
def test_every_candidate_fits_the_memory(shared: int) -> None:
    for case in trials.cases(trials.LITE, KINDS):
        able = trials.candidates(case.op, case.kind, case.rows, shared)
        assert able
        assert all(tile.bytes(1 if case.kind == "fp8" else 2) <= shared for tile in able if tile.rows > 1)
        assert all(128 % tile.depth == 0 for tile in able) or case.kind == "plain"


def test_defaults_fit_a_desk_card() -> None:
    for kind in KINDS:
        for rows in (1, 20, 100, 5000):
            tile = tiles.fitting(tiles.DEFAULTS, rows, kind, tiles.SMALL_MEMORY)
            assert tile.bytes(1 if kind == "fp8" else 2) <= tiles.SMALL_MEMORY
            assert tile.rows <= max(tiles.bucket(rows), 16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", [2, 12])
@pytest.mark.parametrize("gated", [True, False])
def test_launches_that_are_timed_run(kind: str, T: int, gated: bool) -> None:
    case = trials.Experts(kind, T, 64, 64, 4, 2, 2, gated)
    assert case.calls(DEVICE)[0]().shape == (T * 4, 64)  # type: ignore[attr-defined]
    single = trials.Linear(kind, T, 48, 64)
    if kind != "plain":
        assert single.calls(DEVICE)[0]().shape == (T, 48)  # type: ignore[attr-defined]
