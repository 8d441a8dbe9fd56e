"""Time and peak memory of opening a checkpoint, beside transformers and the file's own reading, in fresh processes."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import record
from coderv2.model.config import ModelConfig
from coderv2.model.transformer import Transformer
from coderv2.model.weights import save

ROUNDS = 3
# Lite's widths with fewer layers and experts: about 1.6 GB in bfloat16, in shards as published.
SHAPE = {
    "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": 3,
    "num_attention_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 10944, "moe_intermediate_size": 1408,
    "n_routed_experts": 16, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
    "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": False,
    "rms_norm_eps": 1e-6, "max_position_embeddings": 163840, "rope_theta": 10000, "rope_scaling": None,
    "bos_token_id": 100000, "eos_token_id": 100001,
}  # fmt: skip
_MEASURE = """
import json, sys, time, torch
{imports}
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) << 10
before, begin = peak(), time.perf_counter()
model = {call}
seconds = time.perf_counter() - begin
weights = sum(p.nbytes for p in model.parameters())
print(json.dumps([seconds, (peak() - before) / weights]))
"""
LOADERS = {
    "ours": _MEASURE.format(imports="from coderv2.model.weights import load", call="load(sys.argv[1])"),
    "transformers": _MEASURE.format(
        imports="from transformers import DeepseekV2ForCausalLM",
        call="DeepseekV2ForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)",
    ),
}


def main() -> None:
    """Interleaves the loaders; the file is in the page cache for all of them after the first round."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save(
            Transformer(ModelConfig.from_dict(SHAPE)).bfloat16().initialise(0.02, 0),
            folder,
            max_shard_bytes=600 << 20,
        )
        size = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        taken: dict[str, list[list[float]]] = {name: [] for name in LOADERS}
        for _ in range(ROUNDS + 1):
            for name, code in LOADERS.items():
                taken[name].append(_measure(code, folder))
    rows = [
        {
            "loader": name,
            "checkpoint, GB": size / 1e9,
            "seconds": statistics.median(run[0] for run in runs[1:]),
            "peak / weights": statistics.median(run[1] for run in runs[1:]),
        }
        for name, runs in taken.items()
    ]
    record("loading", rows, ["torch", "transformers", "safetensors"])


def _measure(code: str, folder: Path) -> list[float]:
    out = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    ).stdout
    measured: list[float] = json.loads(out.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
