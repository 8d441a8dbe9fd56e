"""What a machine can do with a model: does it fit, how fast at best, and with which settings.

An answer reads every weight that its token passes once, so bytes per token over bandwidth is the time per token; a
prompt is bound by arithmetic. Both leave out what Python and small operations cost, which rules for a model that fits a
processor's cache: `rehearse` measures such a one instead.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.machine import Machine
from coderv2.engine.request import SamplingParams
from coderv2.model.config import ModelConfig
from coderv2.model.loading import open_model, open_tokenizer
from coderv2.model.transformer import Transformer


@dataclass(frozen=True)
class Size:
    """A model in numbers."""

    name: str
    parameters: int
    active: int
    """Those that one token is multiplied with."""
    cache_values: int
    """Numbers in the cache per token, all layers together."""
    context: int

    @classmethod
    def of(cls, name: str, config: ModelConfig) -> "Size":
        """Counted on a model that has shapes but no memory."""
        with torch.device("meta"):
            model = Transformer(config)
        counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
        routed = sum(count for name, count in counts.items() if ".experts." in name)
        idle = routed - routed * config.num_experts_per_tok // config.n_routed_experts
        return cls(
            name,
            sum(counts.values()),
            sum(counts.values()) - counts["embed_tokens"] - idle,
            config.num_hidden_layers * (config.kv_lora_rank + config.qk_rope_head_dim),
            config.max_position_embeddings,
        )


RELEASED = (
    Size("DeepSeek-Coder-V2-Lite (16B)", 15_706_484_224, 2_451_435_008, 15_552, 163_840),
    Size("DeepSeek-Coder-V2 (236B)", 235_741_434_880, 20_851_512_320, 34_560, 163_840),
)


@dataclass(frozen=True)
class Fit:
    """A model on a machine in one number format, and the settings to run it with."""

    size: Size
    dtype: torch.dtype
    weight_bytes: int
    cache_bytes_per_token: int
    cache_tokens: int
    """What a quarter of the memory left beside the weights holds, and no more than its requests can use."""
    answer_speed: float
    """Tokens per second of one answer, at best."""
    prompt_speed: float
    stored: bool = False
    """The weights stay in the number types of their file."""

    @property
    def fits(self) -> bool:
        """True when weights and a cache of a useful length find room."""
        return self.cache_tokens >= 1024

    @property
    def settings(self) -> EngineSettings:
        """Those that an engine would take by itself here."""
        return EngineSettings(
            max_model_len=min(self.size.context, self.cache_tokens), cache_tokens=self.cache_tokens
        )


def fit(size: Size, machine: Machine, dtype: torch.dtype, *, stored_bytes: int | None = None) -> Fit:
    """Arithmetic only; nothing is loaded. `stored_bytes` are those of weights that stay as they are in their file."""
    speed = machine.speeds[dtype]
    weight_bytes = stored_bytes or size.parameters * dtype.itemsize
    per_token = size.cache_values * dtype.itemsize
    affordable = max(machine.room - weight_bytes, 0) // 4 // per_token
    return Fit(
        size,
        dtype,
        weight_bytes,
        per_token,
        min(affordable, size.context * EngineSettings.max_running),
        answer_speed=speed.bytes_per_second / (size.active * weight_bytes / size.parameters),
        prompt_speed=speed.flops / (2 * size.active),
        stored=stored_bytes is not None,
    )


def best_fit(size: Size, machine: Machine) -> Fit:
    """The fastest of those that fit; the smallest when none does."""
    fits = [fit(size, machine, dtype) for dtype in machine.speeds]
    fitting = [one for one in fits if one.fits]
    if fitting:
        return max(fitting, key=lambda one: one.answer_speed)
    return min(fits, key=lambda one: one.weight_bytes)


@dataclass(frozen=True)
class Rehearsal:
    """Tokens per second that a loaded model really made."""

    answer_speed: float
    prompt_speed: float


def rehearse(folder: Path, dtype: torch.dtype | None, device: str, *, tokens: int = 64) -> Rehearsal:
    """Loads the model, reads a prompt of 512 tokens or half its context, and writes `tokens` tokens."""
    model = open_model(folder, dtype=dtype, device=device)
    count = min(512, model.config.max_position_embeddings // 2)
    engine = Engine(model, open_tokenizer(folder), EngineSettings(cache_tokens=2048, prefix_caching=False))
    prompt = [i % 200 + 10 for i in range(count)]
    answer_times(engine, prompt, 2)
    first, rest = answer_times(engine, prompt, tokens + 1)
    return Rehearsal(tokens / rest, count / first)


def answer_times(engine: Engine, prompt: list[int], tokens: int) -> tuple[float, float]:
    """Seconds to the first token of an answer, and from there to the last."""
    times = [time.perf_counter()]
    engine.submit(prompt, SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True))
    while engine.has_work():
        if engine.step():
            times.append(time.perf_counter())
    return times[1] - times[0], times[-1] - times[1]
