"""Every figure of the GPU path on one card: decode and prefill of a model of Lite's true shape, and each kernel.

Weights are random and made on the device; nothing is downloaded. Ceilings are measured here too: the bandwidth of a
large copy and the speed of a large product. Without a GPU it says so and measures nothing.

    python -m benchmarks gpu
"""

import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import record
from coderv2 import Engine, SamplingParams, paths
from coderv2.engine.settings import EngineSettings
from coderv2.kernels.gpu.timing import on_gpu
from coderv2.kernels.scaled import Kind
from coderv2.model.batch import Batch
from coderv2.model.cache import LatentCache
from coderv2.model.config import ModelConfig
from coderv2.model.scale import place_scaled
from coderv2.model.transformer import Transformer
from coderv2.text.tokenizer import Tokenizer

LITE: dict[str, Any] = {
    "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": 27,
    "num_attention_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 10944, "moe_intermediate_size": 1408,
    "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
    "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": False,
    "rms_norm_eps": 1e-6, "max_position_embeddings": 163840, "rope_theta": 10000, "bos_token_id": 0,
    "eos_token_id": 1, "torch_dtype": "bfloat16",
    "rope_scaling": {
        "type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1,
        "mscale": 0.707, "mscale_all_dim": 0.707,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Goal:
    """One figure of the issue: tokens per second to reach, and the bound of bytes or arithmetic."""

    batch: int
    context: int
    least: float
    bound: float


BF16 = (
    Goal(1, 512, 400, 877), Goal(64, 2048, 4300, 8600), Goal(256, 2048, 11500, 23000), Goal(512, 2048, 17500, 35000),
    Goal(1, 32768, 0, 726),
)  # fmt: skip
FP8 = (
    Goal(1, 512, 700, 1754), Goal(64, 2048, 6880, 17200), Goal(256, 2048, 18400, 46000), Goal(512, 2048, 28000, 70000),
)  # fmt: skip
FORMATS: dict[str, tuple[Kind | None, torch.dtype, Sequence[Goal]]] = {
    "bf16": (None, torch.bfloat16, BF16),
    "fp8": ("fp8", torch.float8_e4m3fn, FP8),
    "int4": ("int4", torch.bfloat16, BF16),
}


def main() -> None:
    """The whole of it, one table for decode, one for prefill, one for kernels."""
    if not torch.cuda.is_available():
        print("gpu: no GPU here, so nothing is measured")
        return
    with torch.inference_mode():
        ceiling = _ceiling()
        decode, prefill = [], []
        for name, (kind, cache, goals) in FORMATS.items():
            model = _model(kind)
            decode += [_decode(name, model, cache, goal) for goal in goals]
            prefill.append(_prefill(name, model))
            del model
            _free()
        prefill.append(_peer_prefill())
        record("gpu_decode", decode, ["torch", "triton"])
        record("gpu_prefill", prefill, ["torch", "triton", "transformers"])
        record("gpu_kernels", list(_kernels(*ceiling)), ["torch", "triton"])


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _ceiling() -> tuple[float, float]:
    """Bytes per second of a copy, both ways counted, and operations per second of a product in bfloat16."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return 2 * source.nbytes / on_gpu(lambda: target.copy_(source)), 2 * 8192**3 / on_gpu(lambda: a @ b)


def _model(kind: Kind | None) -> Transformer:
    """Random weights on the device, one parameter at a time."""
    with torch.device("meta"):
        model = Transformer(ModelConfig.from_dict(LITE))
    generator = torch.Generator("cuda").manual_seed(0)
    for _, module in list(model.named_modules()):
        for name, meta in list(module.named_parameters(recurse=False)):
            full = torch.empty(meta.shape, dtype=torch.bfloat16, device="cuda")
            full = full.fill_(1) if full.dim() == 1 else full.normal_(0, 0.02, generator=generator)
            if kind is None:
                module.register_parameter(name, nn.Parameter(full, requires_grad=False))
            else:
                place_scaled(module, name, full, kind)
    return model.eval()


def _decode(name: str, model: Transformer, cache: torch.dtype, goal: Goal) -> dict[str, Any]:
    """Through the engine, graphs and choice included: `batch` answers side by side after prompts of `context`."""
    new = 64
    engine = Engine(
        model,
        Tokenizer.from_folder(paths.bundled_model()),
        EngineSettings(
            max_running=goal.batch, cache_tokens=goal.batch * (goal.context + new + 16), cache_dtype=cache,
            max_batch_tokens=8192, max_model_len=goal.context + new, prefix_caching=False,
        ),
    )  # fmt: skip
    params = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, draft_tokens=0)
    for b in range(goal.batch):
        engine.submit([(7 * i + 13 * b) % 100_000 + 10 for i in range(goal.context)], params)
    while engine.stats().waiting or not all(r.cached >= goal.context for r in engine._scheduler.running):
        engine.step()
    for _ in range(8):  # graphs are recorded, kernels compiled
        engine.step()
    torch.cuda.synchronize()
    begin, steps = time.perf_counter(), 32
    for _ in range(steps):
        engine.step()
    speed = goal.batch * steps / (time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 1e9
    del engine
    _free()
    return {
        "format": name, "batch": goal.batch, "context": goal.context, "tokens/s": speed, "goal": goal.least,
        "bound": goal.bound, "share of bound": speed / goal.bound, "peak, GB": peak,
    }  # fmt: skip


def _prefill(name: str, model: Transformer, length: int = 4096) -> dict[str, Any]:
    batch = _prompt(model, length)
    speed = length / on_gpu(lambda: model(batch))
    return {"who": name, "prompt": length, "tokens/s": speed, "goal": 70_000, "bound": 155_000}


def _prompt(model: Transformer, length: int) -> Batch:
    cache = LatentCache(model.config, length // 16, 16, torch.bfloat16, "cuda")
    return Batch.cached(cache, [list(range(10, 10 + length))], [0], [list(range(length // 16))])


def _peer_prefill(length: int = 4096) -> dict[str, Any]:
    """`transformers` on random weights of the same shape."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {key: value for key, value in LITE.items() if key not in ("model_type", "torch_dtype")}
    config = AutoConfig.for_model("deepseek_v2", **shape)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()  # type: ignore[no-untyped-call]
    ids = torch.arange(10, 10 + length, device="cuda")[None]
    speed = length / on_gpu(lambda: model(ids, logits_to_keep=1))
    step = on_gpu(lambda: model.generate(ids[:, :512], max_new_tokens=33, min_new_tokens=33, do_sample=False))
    first = on_gpu(lambda: model.generate(ids[:, :512], max_new_tokens=1, do_sample=False))
    return {
        "who": f"transformers (decode {32 / (step - first):.0f} tokens/s)", "prompt": length, "tokens/s": speed,
        "goal": 0, "bound": 155_000,
    }  # fmt: skip


def _kernels(bandwidth: float, arithmetic: float) -> Iterator[dict[str, Any]]:
    """Each kernel beside the PyTorch operations that it replaces."""
    from coderv2.kernels.gpu.ops import GpuOps
    from coderv2.kernels.ops import Ops

    for case, arguments, nbytes, operations in _cases():
        op, _, _ = case.partition(" ")
        seconds, plain = (
            on_gpu(partial(getattr(ops, op), *arguments[0], **arguments[1])) for ops in (GpuOps, Ops)
        )
        yield {
            "kernel": case, "µs": seconds * 1e6, "GB/s": nbytes / seconds / 1e9, "TFLOP/s": operations / seconds / 1e12,
            "share of ceiling": max(nbytes / seconds / bandwidth, operations / seconds / arithmetic),
            "times PyTorch": plain / seconds,
        }  # fmt: skip


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _cases() -> Iterator[tuple[str, Arguments, float, float]]:
    for B, context in ((1, 512), (1, 32768), (64, 2048), (256, 2048)):
        yield _decode_case(B, context)
    for T in (1024, 4096):
        q, k, v = _random(T, 16, 192), _random(T, 16, 192), _random(T, 16, 128)
        where = {"q_starts": (0, T), "k_starts": (0, T), "scale": 0.1147}
        yield f"mla_prefill {T} tokens", ((q, k, v), where), 2.0 * T * 16 * 512, 2.0 * 16 * 320 * T * T / 2
    for T in (1, 8, 64, 512, 4096):
        yield _experts_case(T)
    for T in (1, 4096):
        x, weight = _random(T, 2048), _random(2048)
        yield f"rms_norm {T} rows", ((x, weight, 1e-6), {}), 4.0 * T * 2048, 0.0


def _decode_case(B: int, context: int) -> tuple[str, Arguments, float, float]:
    pages = context // 16
    latent, keys = _random(B * pages, 16, 512), _random(B * pages, 16, 64)
    tables = torch.randperm(B * pages, device="cuda").view(B, pages)
    where = {"starts": range(B + 1), "lengths": [context] * B, "page_tables": list(tables), "scale": 0.1147}
    arguments = (_random(B, 16, 512), _random(B, 16, 64), latent, keys), where
    return f"mla_decode {B} at {context}", arguments, 1152.0 * B * context, 2.0 * 16 * 1088 * B * context


def _experts_case(T: int) -> tuple[str, Arguments, float, float]:
    routed = [_random(64, 1408, 2048), _random(64, 1408, 2048), _random(64, 2048, 1408)]
    shared = [_random(2816, 2048), _random(2816, 2048), _random(2048, 2816)]
    weights_TK, ids_TK = torch.rand(T, 64, device="cuda").softmax(-1).topk(6)
    read = len(ids_TK.unique()) + 2
    arguments: Arguments = (_random(T, 2048), weights_TK, ids_TK, routed, shared), {}
    return f"mixture {T} tokens", arguments, 2.0 * read * 8_650_752, 2.0 * T * 8 * 8_650_752


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16, device="cuda") / 8


if __name__ == "__main__":
    main()
