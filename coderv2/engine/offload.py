"""When a GPU lacks memory: what goes where, decided from what is free; `expected` says how fast that can be."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from coderv2.engine.machine import free_bytes
from coderv2.engine.moving import Mover
from coderv2.engine.settings import EngineSettings
from coderv2.errors import BadData, InvalidValue, Unsupported
from coderv2.kernels import drawing
from coderv2.kernels.scaled import Kind
from coderv2.log import logger
from coderv2.model import calibration, footprint, gguf, packed_file, usage
from coderv2.model.cache import bytes_per_token
from coderv2.model.config import ModelConfig
from coderv2.model.folder import own_dtype
from coderv2.model.loading import is_gguf, is_packed, keeps_fp8, open_config, open_model, open_tokenizer
from coderv2.model.placement import Demand, Plan, Sizes, chosen, plan
from coderv2.model.transformer import Transformer
from coderv2.model.usage import Usage

Experts = Literal["auto", "gpu", "ram"]
"""Where routed experts go: as many to the GPU as fit, all of them, or none."""
SPARE = 512 << 20
"""Bytes of a GPU that are left alone: what libraries take, and what allocation wastes. An estimate."""
WORKSPACE = 32 << 20
"""Bytes that cuBLAS keeps with each stream it has multiplied on, at the most (Hopper)."""
LEAST_TOKENS = 4096
"""For which a cache must have room where no length is asked for."""


USUAL_CONTEXT = 32768
"""Tokens of context that passes are reckoned with where no length is asked for; a longer one asks for it."""


@dataclass(frozen=True)
class Wish:
    """How a model is to be opened."""

    path: Path
    dtype: torch.dtype | None = None
    kind: Kind | None = None
    experts: Experts = "auto"
    usage: Path | None = None
    """A file of counts, read where it is there already; None: the one in the model's folder, if any."""
    move: bool = False
    """Experts move while the model runs; then all of them lie in RAM."""

    @property
    def counted(self) -> bool:
        """True where choices of experts are counted while the model runs."""
        return self.usage is not None or self.move

    def wide(self, config: ModelConfig) -> torch.dtype:
        """The number format of activations on the device, and of what is not rounded there."""
        quants = is_gguf(self.path) or is_packed(self.path)
        return self.dtype or (torch.bfloat16 if quants else own_dtype(config))

    def sizes(self, config: ModelConfig) -> Sizes:
        """Bytes of the weights, once they lie where they belong."""
        wide, quants = self.wide(config), is_gguf(self.path) or is_packed(self.path)
        if quants:
            held = gguf.expert_bytes if is_gguf(self.path) else packed_file.expert_bytes
            return Sizes.of(config, wide, self.kind, held(self.path))
        if not keeps_fp8(self.path, self.dtype, self.kind):
            return Sizes.of(config, wide, self.kind)
        with ExitStack() as stack:
            rows = footprint.fp8_rows(config, footprint.open_headers(self.path, config, stack))
            return Sizes.of(config, wide, self.kind, fp8_rows=rows)

    def counts(self, config: ModelConfig) -> Usage | None:
        """Of experts, where somebody counted. BadData when the file that was named is something else."""
        try:
            return usage.read(self.usage_file, config) if self.usage_file.is_file() else None
        except BadData as error:
            if self.usage is not None:
                raise
            logger.warning("%s; nothing is known of which experts are used", error)
            return None

    @property
    def usage_file(self) -> Path:
        """Where counts lie, or would lie: in the model's folder, or beside a GGUF file under its name."""
        beside = self.path.with_suffix(f".{usage.NAME}") if is_gguf(self.path) else self.path / usage.NAME
        return self.usage or beside


def demand(config: ModelConfig, settings: EngineSettings, dtype: torch.dtype) -> Demand:
    """What an engine of these settings needs beside weights."""
    each = bytes_per_token(config, settings.cache_dtype or dtype)
    context = settings.max_model_len or config.max_position_embeddings
    most = settings.cache_tokens or context * settings.max_running
    least = settings.cache_tokens or settings.max_model_len or min(LEAST_TOKENS, context)
    work = _work(config, settings, dtype.itemsize) + SPARE
    return Demand(each, max(most, least), least, work, _recorded(config, settings, dtype.itemsize))


def _work(config: ModelConfig, settings: EngineSettings, itemsize: int) -> int:
    """Bytes of the tensors that a pass has at the same time, at the most: those of attention, of experts, of logits."""
    context = settings.max_model_len or min(config.max_position_embeddings, USUAL_CONTEXT)
    logits = 4 * settings.max_running * config.vocab_size * 4
    return _through_layers(config, settings.max_batch_tokens, context, itemsize) + logits


def _recorded(config: ModelConfig, settings: EngineSettings, itemsize: int) -> int:
    """Bytes that recorded steps keep: the largest one's tensors, logits for all, and cuBLAS's with their stream."""
    if not settings.graphs or settings.deterministic:
        return 0
    B, W = settings.max_running, config.vocab_size
    logits = 5 * B * W * 4 + drawing.bytes_for(B, W)
    return _through_layers(config, B, 0, itemsize) + logits + WORKSPACE


def _through_layers(config: ModelConfig, T: int, expanded: int, itemsize: int) -> int:
    """Of T tokens that go through a layer; `expanded` are those of the contexts whose keys and values are made."""
    H, head = config.num_attention_heads, config.qk_head_dim + config.v_head_dim
    # Expanded keys and values, laid side by side and once more joined.
    keys = expanded * H * 2 * head * itemsize
    queries = T * H * (2 * config.qk_head_dim + config.v_head_dim) * itemsize
    pairs = T * (config.num_experts_per_tok + config.n_shared_experts)
    inner = pairs * (config.moe_intermediate_size + config.hidden_size) * itemsize
    dense = 3 * T * config.intermediate_size * itemsize
    return 6 * T * config.hidden_size * itemsize + max(keys + queries, inner, dense)


def decide(wish: Wish, settings: EngineSettings, budget: int, ram: int) -> Plan:
    """The plan within `budget` bytes of a device and `ram` bytes beside it. InvalidValue where there is none."""
    config = open_config(wish.path)
    wanted = demand(config, replace(settings, graphs=settings.graphs and not wish.counted), wish.wide(config))
    if wish.move and wish.kind is not None:
        raise Unsupported(
            f"move_experts: quantization {wish.kind} rounds otherwise in RAM than on the GPU, so an expert that moves "
            "would change; a checkpoint that is in few bits already moves as it is",
            param="move_experts",
        )
    made = plan(config, wish.sizes(config), wanted, budget, wish.counts(config), all_in_ram=wish.move)
    if wish.experts == "ram":
        made = replace(made, placement=chosen(config, 0, all_in_ram=wish.move))
    if wish.experts == "gpu" and not made.placement.whole:
        sizes, beside = made.sizes, wanted.work + wanted.recorded + wanted.least * wanted.token
        short = sizes.fixed + made.placement.total * sizes.near + beside - budget
        raise InvalidValue(
            f"all experts on the GPU need {short / 1e9:.1f} GB more than the {budget / 1e9:.1f} GB there; with experts "
            "at auto the least used are in RAM",
            param="experts",
        )
    if made.in_ram > ram:
        raise InvalidValue(
            f"{made.in_ram / 1e9:.1f} GB of experts are left for RAM, of which {ram / 1e9:.1f} GB are free: weights in "
            "fewer bits (quantization fp8 or int4, or a GGUF file) or several GPUs are ways out"
            + (", or to leave out move_experts, which has all of them in RAM" if wish.move else ""),
            param="gpu_memory",
        )
    return made


def for_device(
    wish: Wish, settings: EngineSettings, device: str, gpu_memory: int | str | None, *, several: bool
) -> Plan | None:
    """The plan where one is needed: on a GPU that lacks memory, or whose use is to be limited. None: no need of any."""
    asked = gpu_memory is not None or wish.experts != "auto" or wish.counted
    on_gpu = torch.device(device).type == "cuda"
    if several or not on_gpu:
        if asked:
            raise Unsupported(
                "gpu_memory, experts, expert_usage and move_experts are for one GPU; here the model is on "
                + ("several ranks" if several else "the CPU"),
                param="gpu_memory",
            )
        return None
    free = free_bytes(torch.device(device))
    budget = free if gpu_memory is None else min(memory_bytes(gpu_memory), free)
    made = decide(wish, settings, budget, free_bytes(torch.device("cpu")))
    quants = wish.dtype is None and (is_gguf(wish.path) or is_packed(wish.path))
    return made if asked or quants or not made.placement.whole else None


def memory_bytes(given: int | str) -> int:
    """ "24G" or "800M" (powers of 1,024), or bytes. InvalidValue for anything else, and for nothing."""
    text = str(given).strip().upper().removesuffix("B").removesuffix("I")
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(text[-1:], 0)
    number = text[:-1] if unit else text
    if not re.fullmatch(r"\d+(\.\d+)?", number) or not float(number):
        raise InvalidValue(f"{given!r} is no amount of memory; write 24G, 800M or bytes", param="gpu_memory")
    return int(float(number) * 2**unit)


def open_planned(wish: Wish, made: Plan | None, device: torch.device | str) -> Transformer:
    """The model as planned; None: whole where `device` is. Counts experts where the wish is for that."""
    placement = None if made is None else made.placement
    model = open_model(
        wish.path, dtype=wish.dtype, device=device, progress=True, scaled=wish.kind, placement=placement
    )
    if made is not None:
        logger.warning("%s", told(made))
    if wish.counted:
        usage.watch(model)
    return model


def mover(wish: Wish, model: Transformer) -> Callable[[], None]:
    """What an engine calls between passes so that experts move where that is wished."""
    return Mover(model) if wish.move else lambda: None


def limited(settings: EngineSettings, made: Plan) -> EngineSettings:
    """The settings with the cache that the plan has room for."""
    return replace(settings, cache_tokens=made.cache_tokens)


def told(made: Plan) -> str:
    """The plan in one line."""
    placement = made.placement
    moving = " all in RAM, and the most used move to the GPU" if placement.all_in_ram else " in RAM"
    return (
        f"of {made.budget / 1e9:.1f} GB of GPU memory, what every token uses takes {made.sizes.fixed / 1e9:.1f} GB and "
        f"{placement.count:,} of {placement.total:,} routed experts {made.near / 1e9:.1f} GB; the CPU computes the "
        f"others, {made.in_ram / 1e9:.1f} GB{moving} (`coderv2 plan` says what speed to expect)"
    )


class UsageSaver:
    """Adds what was counted since the model was opened to the wish's file, each choice once."""

    def __init__(self, wish: Wish, model: Transformer) -> None:
        self._wish, self._model = wish, model
        self._saved = usage.uniform(model.config)

    def __call__(self) -> None:
        if self._wish.usage is None:
            return
        before = self._wish.counts(self._model.config) or usage.uniform(self._model.config)
        now = usage.counted(self._model)
        (before + (now - self._saved)).save(self._wish.usage)
        self._saved = now


def count_on_text(wish: Wish, text: Path | None) -> Path:
    """Counts experts in a pass of the model over code, on the CPU; the file written. BadData for too little text."""
    rows = calibration.rows_of(open_tokenizer(wish.path), text)
    model = open_model(wish.path, dtype=wish.dtype, progress=True)
    usage.count(model, rows.learn).save(wish.usage_file)
    return wish.usage_file
