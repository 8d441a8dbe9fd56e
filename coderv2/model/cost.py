"""What a forward pass must read and multiply at the least, counted from the weights as they are stored.

A step of B sequences, one new token each, S tokens in the cache of each:

    bytes         = weights that every token uses + B embedding rows + E·(1 - (1 - K/E)^B) experts a layer
                    + B·S·(C + R) cached numbers a layer
    multiply-adds = B · weights that a token uses + B·S·H·(2C + R) a layer                      (absorbed attention)

A prompt of T tokens:

    bytes         = the same with B = T, without the cache
    multiply-adds = T · weights that a token uses, of the head once + T(T+1)/2·H·(N + R + V) a layer   (expanded)

Experts are taken as chosen evenly. Letters: `coderv2/model/__init__.py`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coderv2.kernels.formats import Weight
from coderv2.model.cache import bytes_per_token
from coderv2.model.moe import Experts, MixtureOfExperts
from coderv2.model.transformer import Transformer


@dataclass(frozen=True)
class Work:
    """Bytes to read, and multiply-adds in each kind of arithmetic (`probe.KINDS`)."""

    bytes: float
    multiply_adds: dict[str, float]

    def seconds(self, bytes_per_second: float, operations: dict[str, float]) -> dict[str, float]:
        """What reading takes and what arithmetic takes; the greater is the bound."""
        arithmetic = sum(2 * count / operations[kind] for kind, count in self.multiply_adds.items())
        return {"memory": self.bytes / bytes_per_second, "arithmetic": arithmetic}


@dataclass(frozen=True)
class _Part:
    """Some weights together: their bytes, and their numbers by the arithmetic that they are multiplied in."""

    bytes: float
    numbers: "Counter[str]"

    @classmethod
    def of(cls, weights: "list[Tensor | Weight]") -> "_Part":
        numbers: Counter[str] = Counter()
        for weight in weights:
            numbers[_kind(weight)] += _count(weight)
        return cls(sum(_bytes(weight) for weight in weights), numbers)


class Cost:
    """The cost of one model's passes."""

    def __init__(self, model: Transformer, cache_dtype: torch.dtype | None = None) -> None:
        """With a cache of the model's own number format unless one is given."""
        config, cache_dtype = model.config, cache_dtype or model.cache_dtype
        experts: list[Tensor | Weight] = []
        always: list[Tensor | Weight] = []
        for module, name, weight in _weights(model):
            if isinstance(module, Experts):
                experts.append(weight)
            elif name not in ("embed_tokens", "lm_head", "key_up"):  # key_absorb is key_up in another order
                always.append(weight)
        self._config = config
        self._experts, self._always = _Part.of(experts), _Part.of(always)
        self._head = _Part.of([model._parameters.get("lm_head", getattr(model, "lm_head"))])  # noqa: B009
        self._layers_of_experts = sum(isinstance(module, MixtureOfExperts) for module in model.modules())
        embedding = getattr(model, "embed_tokens")  # noqa: B009
        self._row_bytes = _bytes(embedding) / config.vocab_size
        self._cache_bytes = bytes_per_token(config, cache_dtype)
        self._attention = {torch.float32: "fp32", torch.int8: "int8"}.get(cache_dtype, "bf16")

    @property
    def expert_bytes(self) -> int:
        """Of one routed expert's three matrices; 0 without experts."""
        count = self._layers_of_experts * self._config.n_routed_experts
        return int(self._experts.bytes / count) if count else 0

    def step(self, sequences: int, depth: int) -> Work:
        """One new token of each sequence, `depth` tokens before it."""
        c = self._config
        keys = sequences * (depth + 1) * c.num_hidden_layers
        work = self._multiplied(sequences, sequences)
        work[self._attention] += keys * c.num_attention_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim)
        return Work(self._read(sequences) + sequences * depth * self._cache_bytes, work)

    def prompt(self, tokens: int) -> Work:
        """A prompt with nothing before it; logits of its last token."""
        c = self._config
        pairs = tokens * (tokens + 1) / 2 * c.num_hidden_layers
        work = self._multiplied(tokens, 1)
        work[self._attention] += pairs * c.num_attention_heads * (c.qk_head_dim + c.v_head_dim)
        return Work(self._read(tokens), work)

    def _read(self, tokens: int) -> float:
        unused = 1 - self._config.num_experts_per_tok / max(1, self._config.n_routed_experts)
        touched = self._experts.bytes * (1 - unused**tokens) if self._layers_of_experts else 0
        return self._always.bytes + self._head.bytes + touched + tokens * self._row_bytes

    def _multiplied(self, tokens: int, rows: int) -> "dict[str, float]":
        work = dict.fromkeys(("fp32", "bf16", "int8"), 0.0)
        share = self._config.num_experts_per_tok / max(1, self._config.n_routed_experts)
        for part, times in ((self._always, tokens), (self._experts, tokens * share), (self._head, rows)):
            for kind, count in part.numbers.items():
                work[kind] += count * times
        return work


def _weights(model: Transformer) -> Iterator[tuple[nn.Module, str, Tensor | Weight]]:
    for module in model.modules():
        yield from ((module, name, p) for name, p in module.named_parameters(recurse=False))
        yield from ((module, name, w) for name, w in vars(module).items() if isinstance(w, Weight))


def _kind(weight: Tensor | Weight) -> str:
    if isinstance(weight, Tensor):
        return "bf16" if weight.dtype == torch.bfloat16 else "fp32"
    return {"f32": "fp32", "fp8": "fp32", "bf16": "bf16"}.get(weight.format.name, "int8")


def _count(weight: Tensor | Weight) -> int:
    return weight.numel() if isinstance(weight, Tensor) else torch.Size(weight.shape).numel()


def _bytes(weight: Tensor | Weight) -> int:
    return weight.nbytes if isinstance(weight, Tensor) else weight.data.nbytes
