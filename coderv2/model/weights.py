"""Checkpoint folders in and out: published tensor names ↔ ours, checked whole before anything is served (spec §3)."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from coderv2.errors import BadCheckpoint, ServiceError, Unsupported
from coderv2.kernels.formats import Weight
from coderv2.kernels.memory import settled
from coderv2.kernels.scaled import Kind, Scaled
from coderv2.model.checkpoint import INDEX, SINGLE, Checkpoint, quantisation, without_quantisation
from coderv2.model.config import ModelConfig
from coderv2.model.folder import FolderSource
from coderv2.model.pack import repack, slots, unpacked
from coderv2.model.parallel import Team
from coderv2.model.published import Named, meta_model, published_tensors
from coderv2.model.scale import place_scaled
from coderv2.model.transformer import Transformer

# Below this size of the files a CPU runs in float32 by default.
SMALL_BYTES = 1 << 30


def auto_dtype(folder: Path, device: torch.device | str) -> torch.dtype | None:
    """The number format that runs best: float32 for a small model on a CPU, else None, the checkpoint's own.

    PyTorch takes four times as long over a bfloat16 product of one row there, and memory is no concern. FP8 weights are
    left as they are.
    """
    if quantisation(ModelConfig.from_folder(folder)):
        return None
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return torch.float32 if torch.device(device).type == "cpu" and size < SMALL_BYTES else None


def check_dtype(dtype: torch.dtype | None) -> None:
    """Unsupported for one that the model's activations do not fit."""
    if dtype == torch.float16:
        raise Unsupported("float16 overflows in this model's layers; use bfloat16 or float32", param="dtype")


def load(
    folder: Path | str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
    packed: bool = False,
    scaled: Kind | None = None,
    stored: bool = False,
    team: Team | None = None,
) -> Transformer:
    """Opens a checkpoint folder; memory at the peak is the weights plus one tensor.

    `packed` brings the weights into kernel order, for running on the CPU and not for training; `scaled` rounds them to
    fewer bits, for running on a GPU, where `stored` leaves FP8 weights the codes that they are. Of a `team` every rank
    reads its own part. `dtype` None takes the config's; float16 is refused, and a float16 checkpoint becomes bfloat16,
    since this model's activations overflow float16 (spec §4.6). FP8 weights are written out in `dtype`; packed with
    `dtype` None they stay what they are. Raises BadCheckpoint naming file and tensor.
    """
    with ExitStack() as stack:
        team = team or Team()
        source = FolderSource(Path(folder), stack, team.split)
        model = meta_model(source.config, team)
        wide = dtype or source.dtype
        check_dtype(wide)
        there = torch.device(device)
        stay = source.stored(scaled, there) if stored else {}
        total = sum(p.numel() * wide.itemsize for p in model.parameters())
        with tqdm(total=total, desc="loading", unit="B", unit_scale=True, disable=_bar(progress)) as bar:
            for module, name, ours, shape in slots(model):
                if packed:
                    source.fill_packed(module, name, ours, dtype)
                elif ours in stay:
                    source.fill_stored(module, name, ours, stay[ours], there)
                else:
                    source.fill(module, name, ours, wide, there)
                    if scaled is not None:
                        place_scaled(module, name, module.get_parameter(name).detach(), scaled)
                bar.update(math.prod(shape) * wide.itemsize)
    return model.eval().requires_grad_(False)


def update(model: Named, source: Path | str | Mapping[str, Tensor]) -> None:
    """New values for a model's weights, in place.

    `source` is a checkpoint folder of the same config, or some or all tensors by their published names
    (`published_tensors` of a model in training brings them). All of it is checked before anything changes: raises
    BadCheckpoint naming the tensor that is unknown, missing, of another shape, or not finite; Unsupported for packed
    weights that are quantised. A packed model's are unpacked on the way: they are there twice meanwhile.
    """
    if isinstance(model, Transformer) and not (model.packed or model.plain):
        raise Unsupported(
            "weights that were rounded on load, or lie partly in RAM beside a GPU, cannot be changed in place; open "
            "the new ones with a new engine"
        )
    if isinstance(model, Transformer) and model.packed:
        settled()  # vectors are written where they lie
        plain = unpacked(model)
        update(plain, source)
        take_values(model, repack(plain))
        return
    ours = dict(published_tensors(model))
    with ExitStack() as stack:
        if isinstance(source, Mapping):
            _check_tensors(ours, source)
            for name, tensor in source.items():
                ours[name].copy_(tensor)
            return
        files = Checkpoint(Path(source), {name: tuple(part.shape) for name, part in ours.items()}, stack)
        check_config(model.config, ModelConfig.from_folder(Path(source)), Path(source))
        for name, part in ours.items():
            files.read_into(name, torch.empty_like(part))
        for name, part in ours.items():
            files.read_into(name, part)


@torch.no_grad()
def take_values(model: Transformer, other: Transformer) -> None:
    """Everything that `other`, a model of the same forms, stores goes into `model`.

    In place on a device, where recorded steps know the addresses.
    """
    for stem, module in model.named_modules():
        source = other.get_submodule(stem)
        for name, parameter in module.named_parameters(recurse=False):
            parameter.copy_(source.get_parameter(name))
        for name, value in list(vars(module).items()):
            if isinstance(value, Scaled):
                value.copy_(getattr(source, name))
            if isinstance(value, Weight):
                setattr(module, name, getattr(source, name))
    model.weights_changed()


def _check_tensors(ours: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    for name, tensor in given.items():
        if name not in ours:
            raise BadCheckpoint(f"{name} is not a tensor of this model")
        if tensor.shape != ours[name].shape:
            raise BadCheckpoint(
                f"{name} has shape {list(tensor.shape)}, the model's is {list(ours[name].shape)}"
            )
        if not bool(tensor.isfinite().all()):
            raise BadCheckpoint(f"{name} holds NaN or infinite values")


def check_config(ours: ModelConfig, given: ModelConfig, folder: Path) -> None:
    """BadCheckpoint where `folder` is of another config; how weights are stored does not count."""
    for name, mine, other in differences(ours, given):
        raise BadCheckpoint(f"{folder}: {name} is {other!r}, the running model's is {mine!r}")


def differences(ours: ModelConfig, given: ModelConfig) -> Iterator[tuple[str, object, object]]:
    """Fields that are not alike, with our value and the given one; how weights are stored does not count."""
    ours, given = without_quantisation(ours), without_quantisation(given)
    for field in fields(ModelConfig):
        mine, other = getattr(ours, field.name), getattr(given, field.name)
        if field.name != "torch_dtype" and mine != other:
            yield field.name, mine, other


def save(
    model: Transformer, folder: Path | str, *, max_shard_bytes: int = 5 << 30, progress: bool = False
) -> None:
    """Writes config and weights in the published per-expert layout, sharded with an index when over a shard.

    Unsupported for a model whose weights were rounded, lie partly in RAM beside a device, or are one rank's part.
    """
    model, folder = unpacked(model) if model.packed else model, Path(folder)
    if not model.plain or model.team.split.size > 1:
        raise Unsupported(
            "a model that was rounded on load, divided or cut for ranks is not whole; open the checkpoint anew"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(model.config, torch_dtype=str(model.dtype).removeprefix("torch."))
    _write_json(folder / "config.json", config.to_dict())
    shards = list(_shards(model, max_shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(tqdm(shards, desc="writing", unit="shard", disable=_bar(progress)), 1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _save_shard(shard, folder / name)
        # The library lets only the owner read; who may read the config may read the weights.
        (folder / name).chmod((folder / "config.json").stat().st_mode)
        weight_map |= dict.fromkeys(shard, name)
    _write_index(folder / INDEX, model, weight_map)


def _save_shard(shard: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(shard, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk too
        raise ServiceError(f"{path} cannot be written: {error}") from None


def _write_index(path: Path, model: Transformer, weight_map: dict[str, str]) -> None:
    if set(weight_map.values()) == {SINGLE}:
        path.unlink(missing_ok=True)  # left there by an earlier, larger model
        return
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    _write_json(path, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _shards(model: Transformer, max_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Published tensors in order, as many to a shard as fit."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in published_tensors(model):
        if shard and size + tensor.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _bar(progress: bool) -> bool | None:
    """tqdm's `disable`: None shows a bar only where somebody watches."""
    return None if progress else True
