"""The state of a run on disk: enough to go on after a kill as if nothing had happened."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from coderv2.data.loader import LoaderState
from coderv2.errors import BadCheckpoint

FILE = "state.pt"


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loader: LoaderState = dataclasses.field(default_factory=LoaderState)
    norms: list[float] = dataclasses.field(default_factory=list)
    """The spike alarm's memory of gradient norms."""


@dataclass(frozen=True)
class Record:
    """What a run was told and what it read: its log and its state begin with that."""

    settings: dict[str, Any]
    """By the names that `config.override` takes."""
    shard: str
    """The shard's fingerprint."""


@dataclass(frozen=True)
class State:
    """A run as it stands."""

    progress: Progress
    optimiser: dict[str, Any]
    record: Record


def save(folder: Path, state: State) -> None:
    """Written beside and renamed, so that a kill leaves the old state or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{FILE}.partial"
    records = {name: dataclasses.asdict(getattr(state, name)) for name in ("progress", "record")}
    torch.save({**records, "optimiser": state.optimiser}, partial)
    partial.replace(folder / FILE)


def load(folder: Path) -> State | None:
    """The state saved in `folder`, or None when there is none."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        progress = dict(saved["progress"])
        loader = LoaderState(**progress.pop("loader"))
        return State(Progress(**progress, loader=loader), saved["optimiser"], Record(**saved["record"]))
    except Exception as error:  # torch raises many kinds for a damaged file
        raise BadCheckpoint(
            f"{path} cannot be read as a run's state: {error}; remove it to start over"
        ) from error
