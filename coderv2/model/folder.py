"""A checkpoint folder read one parameter at a time: whole or one rank's part, written out or as the FP8 that it is."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from coderv2.errors import Unsupported
from coderv2.model.checkpoint import Checkpoint, without_quantisation
from coderv2.model.config import ModelConfig
from coderv2.model.moe import MATRICES
from coderv2.model.pack import exact_format, place, place_fp8, slots
from coderv2.model.parallel import Split
from coderv2.model.published import meta_model, parts, published_tensors
from coderv2.model.scale import scalable

_CPU = torch.device("cpu")

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.bfloat16}


def own_dtype(config: ModelConfig) -> torch.dtype:
    """A checkpoint's number format, or what that becomes here. Unsupported for unknown ones."""
    if config.torch_dtype not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise Unsupported(f"config.json: torch_dtype is {config.torch_dtype!r}; one of {known}")
    return _DTYPES[config.torch_dtype]


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
        for published, part in parts(ours, full, self._split.first_expert(self.config)):
            self._checkpoint.read_into(published, part, partial(self._split.part, published))
        module.register_parameter(name, nn.Parameter(full, requires_grad=False))

    def fill_packed(self, module: nn.Module, name: str, ours: str, dtype: torch.dtype | None = None) -> None:
        """The same in kernel order: in `dtype`, or None for as it lies."""
        meta = module.get_parameter(name)
        whole = self._split.size == 1  # a part of an FP8 tensor need not begin where a scale does
        if whole and dtype is None and all(self._checkpoint.is_fp8(one) for one, _ in parts(ours, meta)):
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
                groups[group][ours] = min(self._rows_alike(one) for one, _ in parts(ours, meta))
        return {ours: least for rows in groups.values() if (least := min(rows.values())) for ours in rows}

    def _rows_alike(self, published: str) -> int:
        return self._checkpoint.rows_alike(published) if self._checkpoint.is_fp8(published) else 0

    def _codes_and_scales(self, ours: str, shape: torch.Size) -> tuple[Tensor, Tensor]:
        codes, scales = torch.empty(shape, dtype=torch.bfloat16), []
        for published, part in parts(ours, codes):
            self._checkpoint.read_codes_into(published, part)
            scales.append(self._checkpoint.scales(published))
        return codes, torch.stack(scales) if len(shape) > 2 else scales[0]


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
