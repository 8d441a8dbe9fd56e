"""Models of the `deepseek2` architecture in GGUF files: config, weights and tokenizer out of one file or its parts."""

import math
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from coderv2.errors import BadCheckpoint
from coderv2.kernels import ggml
from coderv2.kernels.formats import FORMATS
from coderv2.kernels.packing import pack
from coderv2.log import logger
from coderv2.model.attention import LatentAttention
from coderv2.model.config import ModelConfig
from coderv2.model.gguf_config import config_of
from coderv2.model.gguf_file import Entry
from coderv2.model.gguf_names import tensor_name, up_shapes
from coderv2.model.gguf_parts import Gguf
from coderv2.model.gguf_tokenizer import tokenizer_of
from coderv2.model.pack import set_up_stacks, set_weight
from coderv2.model.parallel import Split, Team
from coderv2.model.published import meta_model
from coderv2.model.transformer import Transformer
from coderv2.model.weights import check_dtype
from coderv2.text.tokenizer import Tokenizer


def read_config(path: Path) -> ModelConfig:
    """Of a file, or the first of its parts."""
    with ExitStack() as stack:
        return config_of(Gguf(path, stack))


def read_tokenizer(path: Path) -> Tokenizer:
    """Of a file, or the first of its parts."""
    with ExitStack() as stack:
        return tokenizer_of(Gguf(path, stack))


def weight_bytes(path: Path, part: str = "") -> int:
    """What the tensors of a file and its other parts take once they are packed, some types in wider formats than there.

    Those whose names hold `part`.
    """
    with ExitStack() as stack:
        file = Gguf(path, stack)
        return sum(_held_bytes(file.entry(name)) for name in file.names if part in name)


def expert_bytes(path: Path) -> int:
    """The same of the routed experts."""
    return weight_bytes(path, "_exps.")


def _held_bytes(entry: Entry) -> int:
    *stack, rows, columns = (1, *entry.shape)
    return math.prod(stack) * FORMATS[entry.kind.format].bytes(rows, columns)


def own_dtype(path: Path) -> torch.dtype:
    """Of numbers that are written out: float32 where matrices are F32 or F16, else bfloat16."""
    with ExitStack() as stack:
        file = Gguf(path, stack)
        wide = any(
            file.entry(name).kind.name in ("F32", "F16") for name in file.names if "attn_output." in name
        )
        return torch.float32 if wide else torch.bfloat16


def grain(path: Path) -> int:
    """At multiples of what the widths of feed-forwards can be cut: the largest block that they are quantised in."""
    with ExitStack() as stack:
        file = Gguf(path, stack)
        return max((file.entry(name).kind.columns for name in file.names if "ffn_down" in name), default=1)


def load(
    path: Path, *, dtype: torch.dtype | None = None, progress: bool = False, team: Team | None = None
) -> Transformer:
    """Opens a file, or the first of its parts: weights packed as they are, or as plain parameters in `dtype`.

    Of a `team` every rank reads its own part; Unsupported where quants do not come apart there. Memory at the peak is
    the weights and one tensor. Raises BadCheckpoint or Unsupported naming file and tensor.
    """
    check_dtype(dtype)
    with ExitStack() as stack:
        file = Gguf(path, stack)
        config = config_of(file)
        model = meta_model(config)
        _check(model, file)
        model = model if team is None else meta_model(config, team)
        if dtype is None:
            _tell_what_grows(file)
        total = sum(file.entry(name).size for name in file.names)
        bar = tqdm(total=total, desc="loading", unit="B", unit_scale=True, disable=None if progress else True)
        with bar, torch.no_grad():
            for stem, module in list(model.named_modules()):
                for name in list(module._parameters):
                    ours = f"{stem}.{name}".removeprefix(".")
                    bar.update(_fill(file, module, name, ours, dtype, model.team.split))
    return model.eval().requires_grad_(False)


class Source:
    """A file, or the first of its parts, that gives one parameter at a time."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        """Files are closed with `stack`; all of it is checked now."""
        self._file = Gguf(path, stack)
        self.config = config_of(self._file)
        _check(meta_model(self.config), self._file)

    @property
    def dtype(self) -> torch.dtype:
        """What quants are written out in."""
        return torch.bfloat16

    def fill(self, module: nn.Module, name: str, ours: str, dtype: torch.dtype) -> None:
        """Puts a parameter's values into its module, as a plain tensor."""
        _fill(self._file, module, name, ours, dtype)

    def fill_packed(self, module: nn.Module, name: str, ours: str) -> None:
        """The same in kernel order, as it lies in the file."""
        _fill(self._file, module, name, ours, None)


def _check(model: Transformer, file: Gguf) -> None:
    """Every tensor that the metadata calls for is there in its shape, and none besides."""
    known: set[str] = set()
    for ours, parameter in model.named_parameters():
        wanted = {tensor_name(ours): tuple(parameter.shape)}
        known |= wanted.keys()
        if ours.endswith("kv_b_proj"):
            turned = up_shapes(ours, model.config)
            known |= turned.keys()  # some files hold both generations
            wanted = wanted if tensor_name(ours) in file else turned
        elif ours == "lm_head" and "output.weight" not in file:
            wanted = {}  # it is the embedding then
        for name, shape in wanted.items():
            entry = file.entry(name)
            if entry.shape != shape:
                raise BadCheckpoint(
                    f"{file.path}: {name} has shape {list(entry.shape)}, the metadata call for {list(shape)}"
                )
    for name in file.names:
        if name not in known:
            raise BadCheckpoint(f"{file.path}: {name} is not a tensor of this model")


def _tell_what_grows(file: Gguf) -> None:
    """One line about the types for which there is no kernel: they are kept, exactly, in a wider format."""
    kinds = {file.entry(name).kind for name in file.names if len(file.entry(name).shape) > 1}
    wider = sorted(f"{kind.name} as {kind.format}" for kind in kinds if kind.grows)
    if wider:
        logger.warning("%s: held in wider formats, nothing is lost: %s", file.path, ", ".join(wider))


def _fill(
    file: Gguf, module: nn.Module, name: str, ours: str, dtype: torch.dtype | None, split: Split | None = None
) -> int:
    """Puts one parameter's values in place, as one rank has them; how many bytes of the file that took."""
    split = split or Split()
    if name == "kv_b_proj" and isinstance(module, LatentAttention):
        used = _fill_up_projection(file, module, ours, dtype, split)
    else:
        used = [tensor_name(ours) if tensor_name(ours) in file else "token_embd.weight"]
        ranges = split.ranges(ours, file.entry(used[0]).shape)
        if dtype is None and len(ranges) > 1:
            set_weight(module, name, file.packed(used[0], ranges))
        else:
            plain = ggml.unpack(*file.part(used[0], ranges)).to(dtype or torch.float32, copy=True)
            module.register_parameter(name, nn.Parameter(plain, requires_grad=False))
    for one in used:
        file.forget(one)
    return sum(file.entry(one).size for one in used)


def _fill_up_projection(
    file: Gguf, attention: LatentAttention, ours: str, dtype: torch.dtype | None, split: Split
) -> list[str]:
    """`kv_b_proj` from either generation of files: one tensor, or keys (already turned) and values apart."""
    config, whole = attention.config, tensor_name(ours)
    N = config.qk_nope_head_dim
    if whole in file:
        used, (kind, data, (_, C)) = [whole], file.part(whole, split.ranges(ours, file.entry(whole).shape))
        rows_HOx = data.view(config.num_attention_heads, N + config.v_head_dim, -1)
        key, value = (_part(kind, part, C) for part in (rows_HOx[:, :N], rows_HOx[:, N:]))
        key_HNC, turned = ggml.unpack(*key), None
    else:
        used = list(up_shapes(ours, config))
        stacks = zip(used, ("key_absorb", "value_up"), strict=True)
        turned, value = (
            file.part(name, split.ranges(stack, file.entry(name).shape)) for name, stack in stacks
        )
        kind = turned[0]
        key_HNC, key = ggml.unpack(*turned).transpose(1, 2), None
    if dtype is not None:
        up_HOC = torch.cat((key_HNC, ggml.unpack(*value)), 1).flatten(0, 1).to(dtype)
        attention.register_parameter("kv_b_proj", nn.Parameter(up_HOC, requires_grad=False))
        return used
    # The direction that the file lacks is written out, since quants do not turn.
    wide = ggml.written_out(kind)
    set_up_stacks(
        attention,
        key_up=pack(key_HNC, wide) if key is None else ggml.pack(*key),
        key_absorb=pack(key_HNC.transpose(1, 2), wide) if turned is None else ggml.pack(*turned),
        value_up=ggml.pack(*value),
    )
    return used


def _part(kind: int, rows_HOx: Tensor, columns: int) -> tuple[int, Tensor, tuple[int, ...]]:
    H, O, _ = rows_HOx.shape
    return kind, rows_HOx.contiguous().flatten(), (H, O, columns)
