"""Checkpoint folders in and out: published tensor names ↔ ours, checked whole before anything is served (spec §3)."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from coderv2.errors import BadCheckpoint, Unsupported
from coderv2.kernels.formats import Weight
from coderv2.kernels.scaled import Kind
from coderv2.model.config import ModelConfig
from coderv2.model.pack import format_of, pack_model, place, unpacked
from coderv2.model.parallel import Team
from coderv2.model.scale import place_scaled
from coderv2.model.tensorfile import TensorFile
from coderv2.model.transformer import Transformer

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Buffers that old checkpoints carry and nothing needs.
_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.bfloat16}

# Below this size of the files a CPU runs in float32 by default.
_SMALL_BYTES = 1 << 30


def auto_dtype(folder: Path, device: torch.device | str) -> torch.dtype | None:
    """The number format that runs best: float32 for a small model on a CPU, else None, the checkpoint's own.

    PyTorch takes four times as long over a bfloat16 product of one row there, and memory is no concern.
    """
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return torch.float32 if torch.device(device).type == "cpu" and size < _SMALL_BYTES else None


class Named(Protocol):
    """What a `Transformer` has; the engine's tests bring less than a whole one."""

    @property
    def config(self) -> ModelConfig:
        """Shapes."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights by our names."""


def load(
    folder: Path | str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
    packed: bool = False,
    scaled: Kind | None = None,
    team: Team | None = None,
) -> Transformer:
    """Opens a checkpoint folder; memory at the peak is the weights plus one tensor.

    `packed` brings the weights into kernel order, for running on the CPU and not for training; `scaled` rounds them to
    fewer bits, for running on a GPU. Of a `team` every rank
    reads its own part. `dtype` None takes the
    config's; float16 is refused, and a float16 checkpoint becomes bfloat16, since this model's activations overflow
    float16 (spec §4.6). Raises BadCheckpoint naming file and tensor.
    """
    folder = Path(folder)
    config = ModelConfig.from_folder(folder)
    dtype = dtype or _config_dtype(config)
    if dtype == torch.float16:
        raise Unsupported("float16 overflows in this model's layers; use bfloat16 or float32", param="dtype")
    with torch.device("meta"):
        model, whole = Transformer(config, team), Transformer(config)
    with ExitStack() as stack:
        files = _open_files(folder, stack)
        _check(whole, files)
        _fill(model, files, dtype, torch.device(device), progress, packed, scaled)
    return model.eval().requires_grad_(False)


def update(model: Named, source: Path | str | Mapping[str, Tensor]) -> None:
    """New values for a model's weights, in place.

    `source` is a checkpoint folder of the same config, or some or all tensors by their published names
    (`published_tensors` of a model in training brings them). All of it is checked before anything changes: raises
    BadCheckpoint naming the tensor that is unknown, missing, of another shape, or not finite; Unsupported for packed
    weights that are quantised. A packed model's are unpacked on the way: they are there twice meanwhile.
    """
    if isinstance(model, Transformer) and model.packed:
        plain = unpacked(model)
        update(plain, source)
        _replace(model, pack_model(plain, lambda name: format_of(model)))
        return
    ours = dict(published_tensors(model))
    with ExitStack() as stack:
        if isinstance(source, Mapping):
            _check_tensors(ours, source)
            for name, tensor in source.items():
                ours[name].copy_(tensor)
            return
        files = _open_files(Path(source), stack)
        _check_config(model.config, ModelConfig.from_folder(Path(source)), Path(source))
        _check(model, files)
        for name, part in ours.items():
            files[name].read_into(name, torch.empty_like(part))
        for name, part in ours.items():
            files[name].read_into(name, part)


def _replace(model: Transformer, other: Transformer) -> None:
    """Everything that `other` stores goes into `model`."""
    for stem, module in model.named_modules():
        source = other.get_submodule(stem)
        for name, parameter in module.named_parameters(recurse=False):
            parameter.copy_(source.get_parameter(name))
        for name, value in list(vars(module).items()):
            if isinstance(value, Weight):
                setattr(module, name, getattr(source, name))


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


def _check_config(ours: ModelConfig, given: ModelConfig, folder: Path) -> None:
    for field in fields(ModelConfig):
        mine, other = getattr(ours, field.name), getattr(given, field.name)
        if field.name != "torch_dtype" and mine != other:
            raise BadCheckpoint(f"{folder}: {field.name} is {other!r}, the running model's is {mine!r}")


def save(
    model: Transformer, folder: Path | str, *, max_shard_bytes: int = 5 << 30, progress: bool = False
) -> None:
    """Writes config and weights in the published per-expert layout, sharded with an index when over a shard."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(model.config, torch_dtype=str(model.dtype).removeprefix("torch."))
    _write_json(folder / "config.json", config.to_dict())
    shards = list(_shards(model, max_shard_bytes))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(tqdm(shards, desc="writing", unit="shard", disable=_bar(progress)), 1):
        name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        # The library lets only the owner read; who may read the config may read the weights.
        (folder / name).chmod((folder / "config.json").stat().st_mode)
        weight_map |= dict.fromkeys(shard, name)
    _write_index(folder / INDEX, model, weight_map)


def _write_index(path: Path, model: Transformer, weight_map: dict[str, str]) -> None:
    if set(weight_map.values()) == {SINGLE}:
        path.unlink(missing_ok=True)  # left there by an earlier, larger model
        return
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    _write_json(path, {"metadata": {"total_size": size}, "weight_map": weight_map})


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def published_tensors(model: Named) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under its published name; each expert of a stack is a view of it (5,291 for Lite)."""
    for name, parameter in model.named_parameters():
        yield from _parts(name, parameter.detach())


def _parts(name: str, tensor: Tensor, first: int = 0) -> Iterator[tuple[str, Tensor]]:
    """One parameter of ours as the published tensors that it is made of; `first` is the number of a stack's first."""
    stem, _, last = name.rpartition(".")
    if stem.endswith(".experts"):
        for expert, weight in enumerate(tensor, first):
            yield f"model.{stem}.{expert}.{last}.weight", weight
    else:
        yield ("" if name == "lm_head" else "model.") + f"{name}.weight", tensor


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


def _config_dtype(config: ModelConfig) -> torch.dtype:
    if config.torch_dtype not in _DTYPES:
        raise Unsupported(f"config.json: torch_dtype is {config.torch_dtype!r}; one of {', '.join(_DTYPES)}")
    return _DTYPES[config.torch_dtype]


def _open_files(folder: Path, stack: ExitStack) -> dict[str, TensorFile]:
    """Published tensor name → the open file that holds it."""
    found: dict[str, TensorFile] = {}
    listed = _listed_files(folder)
    for file_name, names in listed.items():
        path = folder / file_name
        if not path.is_file():
            raise BadCheckpoint(f"{path}: not found; the folder is incomplete")
        file = TensorFile(path)
        stack.callback(file.close)
        for name in names or file.entries:
            if name not in file.entries:
                raise BadCheckpoint(f"{path}: lacks {name}, which {INDEX} puts there")
            found[name] = file
        if names and (stray := file.entries.keys() - names):
            raise BadCheckpoint(f"{path}: holds {min(stray)}, which {INDEX} does not put there")
    return found


def _listed_files(folder: Path) -> dict[str, set[str]]:
    """File name → the tensors that the index puts there; without an index, one file and no list."""
    path = folder / INDEX
    if not path.exists():
        _check_single(folder)
        return {SINGLE: set()}
    try:
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        pairs = [(str(name), str(file)) for name, file in weight_map.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{path}: not a usable index: {error!r}") from None
    listed: dict[str, set[str]] = {}
    for name, file in pairs:
        if not re.fullmatch(r"[\w.\-]+\.safetensors", file):
            raise BadCheckpoint(
                f"{path}: puts {name} in {file!r}; only safetensors files of this folder are read"
            )
        listed.setdefault(file, set()).add(name)
    return listed


def _check_single(folder: Path) -> None:
    if (folder / SINGLE).exists():
        return
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
    if pickles:
        raise BadCheckpoint(
            f"{folder / pickles[0]}: a pickle file, which can run code and is never opened; convert it to safetensors"
        )
    raise BadCheckpoint(f"{folder}: holds neither {SINGLE} nor {INDEX}")


def _check(model: Named, files: dict[str, TensorFile]) -> None:
    """Every tensor that the config calls for is there in its shape, and none besides."""
    expected = {name: tuple(tensor.shape) for name, tensor in published_tensors(model)}
    for name, shape in expected.items():
        if name not in files:
            where = next(iter(files.values())).path.parent if files else "checkpoint"
            raise BadCheckpoint(f"{where}: {name} is missing (expected shape {list(shape)})")
        entry = files[name].entries[name]
        if entry.shape != shape:
            raise BadCheckpoint(
                f"{files[name].path}: {name} has shape {list(entry.shape)}, the config calls for {list(shape)}"
            )
    for name in files.keys() - expected.keys():
        if not _IGNORED.fullmatch(name):
            raise BadCheckpoint(f"{files[name].path}: {name} is not a tensor of this model")


def _fill(
    model: Transformer,
    files: dict[str, TensorFile],
    dtype: torch.dtype,
    device: torch.device,
    progress: bool,
    packed: bool,
    scaled: Kind | None,
) -> None:
    split = model.team.split
    first = split.first_expert(model.config)
    total = sum(p.numel() * dtype.itemsize for p in model.parameters())
    with tqdm(total=total, desc="loading", unit="B", unit_scale=True, disable=_bar(progress)) as bar:
        for stem, module in list(model.named_modules()):
            for name, meta in list(module.named_parameters(recurse=False)):
                full = torch.empty(meta.shape, dtype=dtype, device=device)
                for published, part in _parts(f"{stem}.{name}".removeprefix("."), full, first):
                    files[published].read_into(published, part, partial(split.part, published))
                    bar.update(part.numel() * dtype.itemsize)
                if packed:
                    place(module, name, full, "f32" if dtype == torch.float32 else "bf16")
                elif scaled is not None:
                    place_scaled(module, name, full, scaled)
                else:
                    module.register_parameter(name, nn.Parameter(full, requires_grad=False))
