"""Names of vLLM's constructor beyond those that `LLM` takes itself: refused where they ask for something else."""

from collections.abc import Mapping
from typing import Any

from coderv2.errors import Unsupported

# Each name with those of its values that say what happens here anyway.
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "tensor_parallel_size": (1,),
    "pipeline_parallel_size": (1,),
    "data_parallel_size": (1,),
    "enable_expert_parallel": (False,),
    "distributed_executor_backend": (None, "uni"),
    "disable_custom_all_reduce": (True, False),
    "quantization": (None,),
    "load_format": ("auto", "safetensors"),
    "tokenizer_mode": ("auto",),
    "skip_tokenizer_init": (False,),
    "revision": (None,),
    "tokenizer_revision": (None,),
    "code_revision": (None,),
    "config_format": ("auto", "hf"),
    "download_dir": (None,),
    "hf_token": (None, False),
    "hf_overrides": (None,),
    "hf_config_path": (None,),
    "override_generation_config": (None,),
    "generation_config": ("vllm",),
    "task": (None, "auto", "generate"),
    "runner": ("auto", "generate"),
    "convert": ("auto", "none"),
    "model_impl": ("auto",),
    "enable_chunked_prefill": (None, True),
    "enable_prefix_caching": (None, False),
    "num_gpu_blocks_override": (None,),
    "gpu_memory_utilization": (),
    "kv_cache_memory_bytes": (None,),
    "swap_space": (0, None),
    "cpu_offload_gb": (0, None),
    "max_seq_len_to_capture": (),
    "compilation_config": (None, 0),
    "speculative_config": (None,),
    "structured_outputs_config": (None,),
    "guided_decoding_backend": (None,),
    "logits_processors": (None,),
    "logits_processor_pattern": (None,),
    "logprobs_mode": ("raw_logprobs",),
    "max_logprobs": (20,),
    "enable_lora": (False, None),
    "served_model_name": (None,),
    "scheduling_policy": ("fcfs",),
    "async_scheduling": (False, None),
    "disable_sliding_window": (False,),
    "disable_log_stats": (True,),
    "allowed_local_media_path": ("",),
    "limit_mm_per_prompt": (None,),
    "mm_processor_kwargs": (None,),
    "pooler_config": (None,),
    "override_pooler_config": (None,),
}
_WAYS_OUT = {
    "gpu_memory_utilization": "cache_tokens sets the cache's size",
    "download_dir": "set HF_HOME",
    "hf_token": "set HF_TOKEN",
    "revision": "download that revision and give its folder",
}


def check_names(given: Mapping[str, Any]) -> None:
    """Raises TypeError for a name that vLLM does not have either, Unsupported for a value that is not honoured."""
    for name, value in given.items():
        if name not in _ALLOWED:
            raise TypeError(f"LLM() got an unexpected keyword argument {name!r}")
        allowed = _ALLOWED[name]
        if value not in allowed:
            way_out = f"; {_WAYS_OUT[name]}" if name in _WAYS_OUT else ""
            only = f"; only {' or '.join(map(repr, allowed))}" if allowed else ""
            raise Unsupported(f"{name}={value!r} is not supported{only}{way_out}", param=name)
