"""Checkpoint folders in and out: published tensor names ↔ ours, checked whole before anything is served (spec §3)."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from coderv2.errors import BadCheckpoint, ServiceError, Unsupported
from coderv2.kernels.formats import Weight
from coderv2.kernels.memory import settled
from coderv2.kernels.scaled import Kind, Scaled
from coderv2.model.checkpoint import INDEX, SINGLE, Checkpoint, quantisation, without_quantisation
from coderv2.model.config import ModelConfig
from coderv2.model.moe import MATRICES
from coderv2.model.pack import exact_format, place, place_fp8, repack, slots, unpacked
from coderv2.model.parallel import Split, Team
from coderv2.model.scale import place_scaled, scalable
from coderv2.model.transformer import Transformer

_CPU = torch.device("cpu")
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.bfloat16}

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


def own_dtype(config: ModelConfig) -> torch.dtype:
    """A checkpoint's number format, or what that becomes here. Unsupported for unknown ones."""
    if config.torch_dtype not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise Unsupported(f"config.json: torch_dtype is {config.torch_dtype!r}; one of {known}")
    return _DTYPES[config.torch_dtype]


def check_dtype(dtype: torch.dtype | None) -> None:
    """Unsupported for one that the model's activations do not fit."""
    if dtype == torch.float16:
        raise Unsupported("float16 overflows in this model's layers; use bfloat16 or float32", param="dtype")


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
    fewer bits, for running on a GPU. Of a `team` every rank reads its own part. `dtype` None takes the config's;
    float16 is refused, and a float16 checkpoint becomes bfloat16, since this model's activations overflow float16 (spec
    §4.6). FP8 weights are written out in `dtype`; packed whole with `dtype` None they stay what they are. Raises
    BadCheckpoint naming file and tensor.
    """
    with ExitStack() as stack:
        team = team or Team()
        source = FolderSource(Path(folder), stack, team.split)
        model = meta_model(source.config, team)
        wide = dtype or source.dtype
        check_dtype(wide)
        total = sum(p.numel() * wide.itemsize for p in model.parameters())
        with tqdm(total=total, desc="loading", unit="B", unit_scale=True, disable=_bar(progress)) as bar:
            for module, name, ours, shape in slots(model):
                if packed:
                    source.fill_packed(module, name, ours, dtype)
                else:
                    source.fill(module, name, ours, wide, torch.device(device))
                    if scaled is not None:
                        place_scaled(module, name, module.get_parameter(name).detach(), scaled)
                bar.update(math.prod(shape) * wide.itemsize)
    return model.eval().requires_grad_(False)


def meta_model(config: ModelConfig, team: Team | None = None) -> Transformer:
    """A model of shapes, which costs no memory."""
    with torch.device("meta"):
        return Transformer(config, team)


class FolderSource:
    """A checkpoint folder that gives one parameter at a time: as it lies there, or as a plain tensor."""

    def __init__(self, folder: Path, stack: ExitStack, split: Split | None = None) -> None:
        """Files are closed with `stack`; all is checked now. Parameters come as one rank of `split` has them."""
        self._split = split or Split()
        config = ModelConfig.from_folder(folder)
        shapes = {name: tuple(t.shape) for name, t in published_tensors(meta_model(config))}
        self._checkpoint = Checkpoint(folder, shapes, stack)
        self.config = without_quantisation(config)

    @property
    def dtype(self) -> torch.dtype:
        """The config's, or what a checkpoint of that becomes here."""
        return own_dtype(self.config)

    def fill(
        self, module: nn.Module, name: str, ours: str, dtype: torch.dtype, device: torch.device = _CPU
    ) -> None:
        """Puts a parameter's values into its module, as a plain tensor."""
        full = torch.empty(module.get_parameter(name).shape, dtype=dtype, device=device)
        for published, part in _parts(ours, full, self._split.first_expert(self.config)):
            self._checkpoint.read_into(published, part, partial(self._split.part, published))
        module.register_parameter(name, nn.Parameter(full, requires_grad=False))

    def fill_packed(self, module: nn.Module, name: str, ours: str, dtype: torch.dtype | None = None) -> None:
        """The same in kernel order: in `dtype`, or None for as it lies."""
        meta = module.get_parameter(name)
        whole = self._split.size == 1  # a part of an FP8 tensor need not begin where a scale does
        if whole and dtype is None and all(self._checkpoint.is_fp8(one) for one, _ in _parts(ours, meta)):
            place_fp8(module, name, *self._codes_and_scales(ours, meta.shape))
            return
        wide = dtype or self.dtype
        self.fill(module, name, ours, wide)
        place(module, name, module.get_parameter(name).detach(), exact_format(ours, wide))

    def fp8_rows(self) -> dict[str, int]:
        """Of matrices that a GPU can multiply as the FP8 that they are: rows that share scales, 128 or 1.

        A stack is so whole, and a feed-forward's three matrices together, or not at all.
        """
        groups: dict[str, dict[str, int]] = defaultdict(dict)
        for _, name, ours, shape in slots(meta_model(self.config)):
            meta = torch.empty(shape, device="meta")
            if scalable(name, meta):
                group = ours.removesuffix(name) if name in MATRICES else ours
                groups[group][ours] = min(self._rows_alike(one) for one, _ in _parts(ours, meta))
        return {ours: least for rows in groups.values() if (least := min(rows.values())) for ours in rows}

    def _rows_alike(self, published: str) -> int:
        return self._checkpoint.rows_alike(published) if self._checkpoint.is_fp8(published) else 0

    def _codes_and_scales(self, ours: str, shape: torch.Size) -> tuple[Tensor, Tensor]:
        codes, scales = torch.empty(shape, dtype=torch.bfloat16), []
        for published, part in _parts(ours, codes):
            self._checkpoint.read_codes_into(published, part)
            scales.append(self._checkpoint.scales(published))
        return codes, torch.stack(scales) if len(shape) > 2 else scales[0]


def parameter_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Our names and shapes, in the order of `read_parameters`."""
    yield from ((name, tuple(parameter.shape)) for name, parameter in meta_model(config).named_parameters())


def read_parameters(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """A checkpoint's parameters under our names, one after another, each read when it is asked for.

    They come in the config's number format. The folder is checked whole at first, as by `load`.
    """
    with ExitStack() as stack:
        source = FolderSource(folder, stack)
        for module, name, ours, _ in slots(meta_model(source.config)):
            source.fill(module, name, ours, source.dtype)
            yield ours, module.get_parameter(name).detach()
            module.register_parameter(name, None)


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
    ours, given = without_quantisation(ours), without_quantisation(given)
    for field in fields(ModelConfig):
        mine, other = getattr(ours, field.name), getattr(given, field.name)
        if field.name != "torch_dtype" and mine != other:
            raise BadCheckpoint(f"{folder}: {field.name} is {other!r}, the running model's is {mine!r}")


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
