"""What a training run may be told; a recipe returns one of these, `override` changes single numbers."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from coderv2.data.encode import ROW_TOKENS
from coderv2.errors import InvalidValue

C = TypeVar("C")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW for embeddings, head, router and norms; Muon for all other matrices."""

    lr: float = 3e-3
    """Peak rate of AdamW."""
    muon_lr: float = 0.02
    """Peak rate of Muon."""
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    """Largest norm of the whole gradient."""
    warmup_steps: int = 100
    final: float = 0.1
    """The rate at the end, as a share of the peak: cosine between the two."""
    spike: float = 6.0
    """A step whose gradient norm exceeds this many times the running median is skipped; inf skips none."""

    def __post_init__(self) -> None:
        _require(self, _from_zero, "0 or more", "lr", "muon_lr", "weight_decay", "warmup_steps")
        _require(self, lambda value: 0 <= value < 1, "at least 0 and below 1", "beta1", "beta2", "momentum")
        _require(self, lambda value: value > 0, "above 0", "clip")
        _require(self, lambda value: 0 <= value <= 1, "between 0 and 1", "final")
        _require(self, lambda value: value >= 1, "1 or more", "spike")


@dataclass(frozen=True)
class RunConfig:
    """Length, batch and book-keeping of one run. It ends at `steps` or `minutes`, whichever comes first."""

    seed: int = 0
    row_tokens: int = ROW_TOKENS
    """Tokens of one forward pass, whole documents laid end to end."""
    rows_per_step: int = 2
    steps: int | None = None
    """Repeatable to the bit on one machine; `minutes` alone is not, since speed decides the schedule."""
    minutes: float | None = None
    balance_alpha: float = 0.003
    """Weight of the expert balance loss."""
    log_every: int = 20
    """Steps between log lines; the first, the last and skipped steps have one too."""
    save_every: int = 200
    """Steps between checkpoints of the run's state."""
    optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise InvalidValue("a run needs steps or minutes", param="steps")
        _require(self, _from_zero, "0 or more", "seed", "steps", "minutes", "balance_alpha")
        _require(self, lambda value: value >= 1, "1 or more", "rows_per_step", "log_every", "save_every")
        _require(self, lambda value: value >= 2, "2 or more", "row_tokens")


def override(config: C, settings: Iterable[str]) -> C:
    """The config with settings such as `optim.lr=3e-4` applied; unknown names and bad numbers are errors."""
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise InvalidValue(f"{setting!r} is not of the form name=value", param=setting)
        config = _set(config, path.split("."), value)
    return config


def settings(config: object, before: str = "") -> dict[str, Any]:
    """Every setting by the name that `override` takes."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        value, name = getattr(config, item.name), before + item.name
        found |= settings(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return found


def _from_zero(value: float) -> bool:
    return 0 <= value < math.inf


def _require(config: object, holds: Callable[[float], bool], wanted: str, *names: str) -> None:
    """Each named setting that is given must hold; a value that is no number never does."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not holds(value):
            raise InvalidValue(f"{name} must be {wanted}, not {value}", param=name)


def _set(config: C, path: list[str], value: str) -> C:
    known = {item.name for item in dataclasses.fields(config)}  # type: ignore[arg-type]
    if path[0] not in known:
        raise InvalidValue(f"{path[0]} is not a setting; there are {', '.join(sorted(known))}", param=path[0])
    old = getattr(config, path[0])
    if (len(path) > 1) != dataclasses.is_dataclass(old):
        raise InvalidValue(f"{'.'.join(path)} is not a single setting", param=path[0])
    new = _set(old, path[1:], value) if len(path) > 1 else _number(path[0], old, value)
    return dataclasses.replace(config, **{path[0]: new})  # type: ignore[type-var]


def _number(name: str, old: Any, value: str) -> int | float:
    kind = int if isinstance(old, int) or name == "steps" else float
    try:
        return kind(value)
    except ValueError as error:
        raise InvalidValue(f"{name} must be a number ({kind.__name__}), not {value!r}", param=name) from error
