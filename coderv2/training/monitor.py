"""What a run writes down, and the alarm for gradient spikes."""

import json
import statistics
from collections import deque
from pathlib import Path

from coderv2.log import logger

MEMORY = 100


class RunLog:
    """One JSON object a line, appended and flushed, so that a killed run leaves all it knew."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def write(self, **fields: float | int | str) -> None:
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in fields.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        logger.info(" ".join(f"{key}={value}" for key, value in rounded.items()))


class SpikeAlarm:
    """Tells whether a gradient norm is far above those before it (the paper met such spikes, section 3.2)."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._norms: deque[float] = deque(maxlen=MEMORY)

    def rings(self, norm: float) -> bool:
        """Also for a norm that is no number. A norm that rings is forgotten."""
        if len(self._norms) >= MEMORY // 2 and not norm <= self._factor * statistics.median(self._norms):
            return True
        if norm != norm or norm == float("inf"):
            return True
        self._norms.append(norm)
        return False
