"""What the engine itself costs in a decode step of a Lite-shaped model, the model call replaced by its duration.

The duration is recorded on this machine, with weights packed in four bits (the fastest), from one dense layer, one
layer of experts and the output matrix, and added up to 27 layers. What the replaced call takes of itself is not
counted; all the rest of a step is the engine's: planning, laying out the batch, sampling from 102,400 logits a row,
text, and the deltas.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import record
from coderv2 import paths
from coderv2.engine.engine import Engine, EngineSettings
from coderv2.engine.request import SamplingParams
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig
from coderv2.model.pack import pack_model
from coderv2.model.transformer import Transformer
from coderv2.text.tokenizer import Tokenizer

STEPS = 40
CONTEXT = 1024
BATCHES = (1, 8, 32)
KINDS = {
    "greedy": SamplingParams(temperature=0, max_tokens=4 * STEPS, ignore_eos=True, draft_tokens=0),
    "top_p 0.95": SamplingParams(top_p=0.95, seed=0, max_tokens=4 * STEPS, ignore_eos=True, draft_tokens=0),
}
LITE = ModelConfig.from_dict({
    "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": 27,
    "num_attention_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 10944, "moe_intermediate_size": 1408,
    "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
    "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": False,
    "rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "rope_theta": 10000, "rope_scaling": None,
    "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
})  # fmt: skip


class Replaced:
    """Gives random logits; `seconds` is the time that it took itself."""

    def __init__(self) -> None:
        # The cache's layers are not read: one keeps the memory small.
        self.config = replace(LITE, num_hidden_layers=1)
        self.dtype, self.cache_dtype, self.device = torch.float32, torch.bfloat16, torch.device("cpu")
        self.seconds = 0.0
        # Spread about as widely as a trained model's, so that few tokens hold most of the probability.
        self._logits_RW = 6 * torch.randn(2 * max(BATCHES), LITE.vocab_size)
        self._calls = 0

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """None."""
        return iter(())

    def __call__(self, batch: Batch, /) -> Tensor:
        begin = time.perf_counter()
        rows = len(batch.token_ids_T) if batch.logits_rows is None else len(batch.logits_rows)
        self._calls += 1
        first = self._calls % max(BATCHES)
        logits_RW = self._logits_RW[first : first + rows]
        self.seconds += time.perf_counter() - begin
        return logits_RW


def main() -> None:
    """The engine's time per step and per sequence, and its share of a step."""
    torch.set_num_threads(paths.threads())
    model = recorded()
    rows: list[dict[str, Any]] = []
    for kind, params in KINDS.items():
        for batch in BATCHES:
            own = engine_seconds(batch, params)
            rows.append({
                "sampling": kind,
                "sequences": batch,
                "engine, ms a step": own * 1e3,
                "engine, us a sequence": own / batch * 1e6,
                "model, ms a step": model[batch] * 1e3,
                "engine's share, %": 100 * own / (own + model[batch]),
            })  # fmt: skip
    record("engine_overhead", rows, ["torch"])


def engine_seconds(batch: int, params: SamplingParams) -> float:
    """Median over decode steps of what is not the model's."""
    model = Replaced()
    settings = EngineSettings(max_running=batch, max_model_len=2 * CONTEXT, max_batch_tokens=2048)
    engine = Engine(model, Tokenizer.from_folder(paths.bundled_model()), settings)
    for number in range(batch):
        engine.submit([(number * 31 + 7 * place) % 3000 + 10 for place in range(CONTEXT)], params)
    while len(engine.step()) < batch:
        pass
    taken = []
    for _ in range(STEPS):
        model.seconds, begin = 0.0, time.perf_counter()
        assert len(engine.step()) == batch
        taken.append(time.perf_counter() - begin - model.seconds)
    return statistics.median(taken)


def recorded() -> dict[int, float]:
    """Seconds of a decode step of the whole model for each batch size."""
    short, long = (_steps(replace(LITE, num_hidden_layers=layers)) for layers in (1, 2))
    return {
        batch: short[batch] + (LITE.num_hidden_layers - 1) * (long[batch] - short[batch]) for batch in BATCHES
    }


def _steps(config: ModelConfig) -> dict[int, float]:
    with torch.inference_mode():
        model = pack_model(Transformer(config).initialise(0.02, 0), lambda name: "int4")
        pages = CONTEXT // 16
        cache = LatentCache(config, max(BATCHES) * pages, 16, model.cache_dtype)
        tables = [list(range(b * pages, (b + 1) * pages)) for b in range(max(BATCHES))]
        return {batch: _step(model, cache, tables[:batch]) for batch in BATCHES}


def _step(model: Transformer, cache: LatentCache, tables: list[list[int]]) -> float:
    taken = []
    for number in range(7):
        tokens = [[(97 * number + 13 * b) % 3000] for b in range(len(tables))]
        batch = Batch.cached(cache, tokens, [CONTEXT - 1] * len(tables), tables)
        begin = time.perf_counter()
        model(batch)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    main()
