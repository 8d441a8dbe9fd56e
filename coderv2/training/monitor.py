"""What a run writes down, and the alarm for gradient spikes."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from coderv2.errors import UserError
from coderv2.log import logger

MEMORY = 100


class RunLog:
    """One JSON object a line, appended and flushed, so that a killed run leaves all it knew."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def write(self, **fields: float | int | str | dict[str, Any]) -> None:
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        logger.info(" ".join(f"{key}={value}" for key, value in rounded.items()))


class SpikeAlarm:
    """Tells whether a gradient norm is far above those before it (the paper met such spikes, section 3.2).

    Norms that ring are remembered like the others: a few do not move the median, and a level that lasts is the usual
    one after half of the memory.
    """

    def __init__(self, factor: float, norms: list[float]) -> None:
        """`norms` are those before, the latest last; the alarm keeps them up to date."""
        self._factor = factor
        self._norms = norms

    def rings(self, norm: float) -> bool:
        """Also for a norm that is no number. Raises UserError when that has become usual."""
        norm = norm if math.isfinite(norm) else math.inf
        usual = self._median()
        self._norms[:] = [*self._norms, norm][-MEMORY:]
        if self._median() == math.inf:
            raise UserError(
                f"the gradient was no number in half of the last {len(self._norms)} steps: the run has diverged. "
                "Train anew with a lower optim.lr and optim.muon_lr"
            )
        return norm == math.inf or (usual is not None and norm > self._factor * usual)

    def _median(self) -> float | None:
        """None until enough is known."""
        return statistics.median(self._norms) if len(self._norms) >= MEMORY // 2 else None
