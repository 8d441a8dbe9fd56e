"""A checkpoint folder read one parameter at a time: whole or one rank's part, written out or as the FP8 that it is."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from coderv2.errors import Unsupported
from coderv2.kernels.layout import FP8_SPAN
from coderv2.kernels.scaled import FP8, Kind, Stored
from coderv2.model.checkpoint import Checkpoint, without_quantisation
from coderv2.model.config import ModelConfig
from coderv2.model.moe import MATRICES
from coderv2.model.pack import exact_format, place, place_fp8, slots
from coderv2.model.parallel import Split, Team
from coderv2.model.published import meta_model, parts, published_tensors
from coderv2.model.scale import scalable
from coderv2.model.transformer import Transformer

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
        if dtype is None and self._rows_alike(ours):
            place_fp8(
                module, name, *self._codes_and_scales(ours, torch.empty(meta.shape, dtype=torch.bfloat16))
            )
            return
        wide = dtype or self.dtype
        self.fill(module, name, ours, wide)
        place(module, name, module.get_parameter(name).detach(), exact_format(ours, wide))

    def fill_stored(self, module: nn.Module, name: str, ours: str, how: Stored, device: torch.device) -> None:
        """The same as the FP8 that it is, for a device; `stored` says of what and how."""
        codes = torch.empty(module.get_parameter(name).shape, dtype=FP8, device=device)
        module._parameters.pop(name)
        setattr(module, name, how.scaled(*self._codes_and_scales(ours, codes)))

    def stored(self, kind: Kind | None = None, device: torch.device = _CPU) -> dict[str, Stored]:
        """What a GPU can multiply as the FP8 that it is: every matrix, or of a rank those cut where scales are.

        With `kind` fp8 activations are rounded too, with int4 nothing stays.
        """
        if kind == "int4":
            return {}
        rows = alike_together(meta_model(self.config, Team(self._split)), self._rows_alike)
        if kind is None:
            return {ours: Stored(count) for ours, count in rows.items()}
        fixed = self._input_scales(rows, device)
        return {ours: Stored(count, "fp8", fixed[ours]) for ours, count in rows.items()}

    @property
    def grain(self) -> int:
        """At multiples of what widths are to be cut for ranks, so that FP8 can stay what it is (`Split.grain`)."""
        found = (
            name for name, _ in published_tensors(meta_model(self.config)) if self._checkpoint.is_fp8(name)
        )
        return max(map(self._checkpoint.columns_alike, found), default=0) or 1

    def _published(self, ours: str) -> list[str]:
        """Names of the tensors that a parameter is made of here."""
        stack = torch.empty(self._split.stack(self.config)[0], device="meta")
        return [name for name, _ in parts(ours, stack, self._split.first_expert(self.config))]

    def _rows_alike(self, ours: str) -> int:
        """Rows of a parameter that share FP8 scales, 128 or 1; 0: it is not FP8 throughout, or cut within a scale."""
        names = self._published(ours)
        return min(self._part_alike(name) if self._checkpoint.is_fp8(name) else 0 for name in names)

    def _part_alike(self, published: str) -> int:
        rows, columns = self._own(published)
        alike, span = self._checkpoint.rows_alike(published), self._checkpoint.columns_alike(published)
        if span and columns.start % span:
            return 0
        return alike if rows.start % alike == 0 else 1

    def _own(self, published: str) -> list[range]:
        return self._split.ranges(published, self._checkpoint.entry(published).shape)

    def _codes_and_scales(self, ours: str, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Fills `codes`, whose type has every code; beside them the scales of each row and 128 columns, there too."""
        scales = []
        for published, part in parts(ours, codes, self._split.first_expert(self.config)):
            wide = torch.empty(part.shape, dtype=torch.bfloat16)
            self._checkpoint.read_codes_into(published, wide, partial(self._split.part, published))
            part.copy_(wide)
            rows, columns = self._own(published)
            first = columns.start // FP8_SPAN
            own = self._checkpoint.scales(published)[rows.start : rows.stop, first:]
            scales.append(own[:, : -(-len(columns) // FP8_SPAN)])
        return codes, torch.stack(scales).reshape(*codes.shape[:-1], -1).to(codes.device)

    def _input_scales(self, ours: Iterable[str], device: torch.device) -> dict[str, Tensor | None]:
        """What activations are divided by: the largest of matrices that can be one call's, where each has one."""
        calls: dict[str, list[str]] = defaultdict(list)
        for name in ours:
            calls[_call(name)].append(name)
        found: dict[str, Tensor | None] = {}
        for names in calls.values():
            each = [self._checkpoint.input_scale(name) for one in names for name in self._published(one)]
            known = [scale for scale in each if scale is not None]
            largest = torch.tensor([max(known)], device=device) if len(known) == len(each) else None
            found |= dict.fromkeys(names, largest)
        return found


def alike_together(model: Transformer, alike: Callable[[str], int]) -> dict[str, int]:
    """Of matrices that stay FP8 on a GPU: rows that share scales, 128 or 1, as `alike` says (0: it is not FP8).

    A feed-forward's three matrices stay so together, or not at all.
    """
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for _, name, ours, shape in slots(model):
        if scalable(name, torch.empty(shape, device="meta")):
            group = ours.removesuffix(name) if name in MATRICES else ours
            groups[group][ours] = alike(ours)
    return {ours: least for rows in groups.values() if (least := min(rows.values())) for ours in rows}


def _call(ours: str) -> str:
    """What is alike of matrices that one call multiplies with the same: gates and ups of a layer, or its downs."""
    stem, mlp, name = ours.partition(".mlp.")
    return f"{stem}{mlp}{name.endswith('down_proj')}" if mlp else ours


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
