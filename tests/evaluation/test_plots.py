"""The two figures, read back as pixels."""

import io

import matplotlib.image
import numpy as np

from coderv2.evaluation import plots
from coderv2.evaluation.score import Item


def pixels(png: bytes) -> np.ndarray:  # type: ignore[type-arg]
    image = matplotlib.image.imread(io.BytesIO(png), format="png")
    return np.asarray(image)[..., :3]


def share(image: np.ndarray, wanted: tuple[float, float, float]) -> float:  # type: ignore[type-arg]
    """Of the pixels that have nearly this colour."""
    return float((np.abs(image - np.array(wanted)).max(axis=-1) < 0.06).mean())


def test_our_bar_grows_with_our_score_and_is_absent_where_nothing_ran() -> None:
    pink = (0.89, 0.47, 0.76)  # the seventh colour: ours
    none, low, high = (
        share(pixels(plots.bars({} if v is None else {"humaneval": {"value": v}})), pink)
        for v in (None, 0.3, 0.9)
    )
    assert none < low < high


def test_the_grid_is_green_where_found_red_where_not_and_blank_where_not_asked() -> None:
    green, red = (0.0, 0.41, 0.22), (0.65, 0.0, 0.15)

    def drawn(*values: float) -> np.ndarray:  # type: ignore[type-arg]
        cells = [(1000, 0), (1000, 50), (13000, 0), (13000, 50)]
        items = [Item(f"{l}/{d}", 0, "", v, "") for (l, d), v in zip(cells, values, strict=False)]
        return pixels(plots.grid(items))

    full, half, three = drawn(1, 1, 1, 1), drawn(1, 1, 0, 0), drawn(1, 1, 1)
    assert share(full, green) > 0.5
    assert 0.3 < share(half, red) < 0.4
    assert 0.3 < share(half, green) < 0.4
    assert share(three, green) < 0.8 * share(full, green)


def test_of_several_samples_of_a_cell_the_mean_is_drawn() -> None:
    """It was the last one."""
    green = (0.0, 0.41, 0.22)
    found, missed = Item("1000/0", 0, "", 1.0, ""), Item("1000/0", 1, "", 0.0, "")
    first, last = (pixels(plots.grid(items)) for items in ([found, missed], [missed, found]))
    assert np.array_equal(first, last)
    assert share(first, green) < 0.1 < share(pixels(plots.grid([found])), green)
