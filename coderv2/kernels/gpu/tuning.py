"""Tile sizes by trying: every candidate that fits, timed on this GPU for the shapes of one model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from coderv2.kernels.gpu import experts, tiles
from coderv2.kernels.gpu.linear import linear
from coderv2.kernels.gpu.timing import on_gpu
from coderv2.kernels.scaled import Scaled, to_fp8, to_int4

ROWS = (1, 8, 64, 256, 2048)
"""Tokens in a pass that are tuned for."""


@dataclass(frozen=True)
class Case:
    """One product to tune: its place in the table, and how it is run."""

    key: str
    kind: str
    run: Callable[[], object]


def candidates(kind: str, shared: int) -> list[tiles.Tile]:
    """Tiles that `shared` bytes hold."""
    grid = product((16, 32, 64, 128), (32, 64, 128), tiles.DEPTHS[kind], (4, 8), (2, 3, 4))
    itemsize = 1 if kind == "fp8" else 2
    return [tile for tile in (tiles.Tile(*sizes) for sizes in grid) if tile.bytes(itemsize) <= shared]


def cases(D: int, F: int, E: int, K: int, device: torch.device) -> Iterator[Case]:
    """The products of a layer of width D with E experts of width F, K of them for each token."""
    for kind, rows in product(("plain", "fp8", "int4"), ROWS):
        x_TD = torch.randn(rows, D, dtype=torch.bfloat16, device=device)
        if kind != "plain":
            weight = _weight(kind, D, D, device=device)
            yield Case(tiles.key("linear", kind, rows, D, D), kind, partial(linear, x_TD, weight))
        stack = [_weight(kind, E, *shape, device=device) for shape in ((F, D), (F, D), (D, F))]
        weights_TK, ids_TK = torch.rand(rows, E, device=device).softmax(-1).topk(K)
        run = partial(experts.experts, x_TD, weights_TK, ids_TK, *stack)
        for O, I in ((F, D), (D, F)):
            yield Case(tiles.key("experts", kind, max(rows * K // E, 1), O, I), kind, run)


def _weight(kind: str, *shape: int, device: torch.device) -> Tensor | Scaled:
    plain = torch.randn(*shape, device=device) / 32
    if kind == "plain":
        return plain.bfloat16()
    return to_fp8(plain) if kind == "fp8" else to_int4(plain)


def best_tile(
    case: Case, able: list[tiles.Tile], timed: Callable[[Callable[[], object]], float]
) -> tuple[tiles.Tile, float]:
    """The fastest of those that run, and its seconds; what the GPU refuses is passed over."""
    found: list[tuple[float, tiles.Tile]] = []
    for tile in able:
        with tiles.forced({case.key: tile}):
            try:
                found.append((timed(case.run), tile))
            except Exception as error:
                if "out of resource" not in str(error) and "OutOfResources" not in type(error).__name__:
                    raise
    seconds, tile = min(found, key=lambda pair: pair[0])
    return tile, seconds


def tune(
    D: int,
    F: int,
    E: int,
    K: int,
    device: torch.device,
    timed: Callable[[Callable[[], object]], float] = on_gpu,
) -> tuple[dict[str, tiles.Tile], dict[str, float]]:
    """The best tiles, and the microseconds of each."""
    card, best, measured = tiles.card(device), {}, {}
    for case in cases(D, F, E, K, device):
        tile, seconds = best_tile(case, candidates(case.kind, card.shared), timed)
        best[case.key], measured[case.key] = tile, seconds * 1e6
    return best, measured
