"""Names of vLLM's constructor beyond those that `LLM` takes itself: refused where they ask for something else."""

from collections.abc import Mapping
from typing import Any

from coderv2.errors import Unsupported

# Each name with those of its values that say what happens here anyway.
_ALLOWED: dict[str, tuple[Any, ...]] = {
    "pipeline_parallel_size": (1,),
    "data_parallel_size": (1,),
    "distributed_executor_backend": (None, "uni"),
    "disable_custom_all_reduce": (True, False),
    "quantization": (None, "fp8", "int4"),
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
    "scheduling_policy": ("fcfs", "priority"),
    "async_scheduling": (False, None),
    "disable_sliding_window": (False,),
    "disable_log_stats": (True,),
    "allowed_local_media_path": ("",),
    "limit_mm_per_prompt": (None,),
    "mm_processor_kwargs": (None,),
    "pooler_config": (None,),
    "override_pooler_config": (None,),
    "disable_async_output_proc": (True, False),
    "disable_cascade_attn": (True, False),
    "use_tqdm_on_load": (True,),
    "use_v2_block_manager": (True,),
    "enable_sleep_mode": (False,),
    "enable_eplb": (False,),
    "enable_prompt_embeds": (False,),
    "enable_prompt_adapter": (False,),
    "enable_return_routed_experts": (False,),
    "data_parallel_size_local": (None, 1),
    "data_parallel_rank": (None, 0),
    "decode_context_parallel_size": (1,),
    "prefill_context_parallel_size": (1,),
    "max_parallel_loading_workers": (None,),
    "model_loader_extra_config": (None, {}),
    "ignore_patterns": (None,),
    "quantization_param_path": (None,),
    "calculate_kv_scales": (False,),
    "rope_scaling": (None, {}),
    "rope_theta": (None,),
    "max_num_partial_prefills": (1,),
    "max_long_partial_prefills": (1,),
    "long_prefill_token_threshold": (0,),
    "num_lookahead_slots": (0,),
    "num_scheduler_steps": (1,),
    "scheduler_cls": (None,),
    "scheduler_delay_factor": (0, 0.0),
    "disable_hybrid_kv_cache_manager": (None, True, False),
    "preemption_mode": (None, "recompute"),
    "prefix_caching_hash_algo": ("sha256",),
    "kv_transfer_config": (None,),
    "kv_events_config": (None,),
    "kv_offloading_size": (None,),
    "speculative_model": (None,),
    "num_speculative_tokens": (None,),
    "ngram_prompt_lookup_max": (None,),
    "enable_lora_bias": (False,),
    "max_loras": (),
    "max_lora_rank": (),
    "max_cpu_loras": (None,),
    "reasoning_parser": (None, ""),
    "tokenizer_pool_size": (0,),
    "worker_cls": ("auto",),
    "worker_extension_cls": ("",),
    "profiler_config": (None,),
    "additional_config": (None, {}),
    "attention_backend": (None,),
    "attention_config": (None,),
    "cuda_graph_sizes": (None, []),
    "cudagraph_capture_sizes": (None, []),
    "optimization_level": (0,),
    "collect_detailed_traces": (None,),
    "otlp_traces_endpoint": (None,),
    "disable_mm_preprocessor_cache": (True, False),
    "interleave_mm_strings": (False,),
    "enable_multimodal_encoder_data_parallel": (False,),
    "media_io_kwargs": (None,),
    "allowed_media_domains": (None,),
}
_WAYS_OUT = {
    "gpu_memory_utilization": "cache_tokens sets the cache's size",
    "speculative_config": "draft_tokens sets how many tokens of an answer are guessed",
    "download_dir": "set HF_HOME",
    "hf_token": "set HF_TOKEN",
    "optimization_level": "nothing is compiled",
    "kv_offloading_size": "cache_dir keeps the cache on disk",
    "num_speculative_tokens": "draft_tokens sets how many tokens of an answer are guessed",
    "revision": "download that revision and give its folder",
}


def check_names(given: Mapping[str, Any]) -> None:
    """Raises TypeError for a name that vLLM does not have either, Unsupported for a value that is not honoured."""
    for name, value in given.items():
        if name not in _ALLOWED:
            raise TypeError(f"LLM() got an unexpected keyword argument {name!r}")
        allowed = _ALLOWED[name]
        # 1 is not True here: an option that is a number is not a switch.
        if not any(value == one and type(value) in _kinds(one) for one in allowed):
            way_out = f"; {_WAYS_OUT[name]}" if name in _WAYS_OUT else ""
            only = f"; only {' or '.join(map(repr, allowed))}" if allowed else ""
            raise Unsupported(f"{name}={value!r} is not supported{only}{way_out}", param=name)


def _kinds(value: Any) -> tuple[type, ...]:
    """Types in which a value may be written; 0 may stand as 0.0."""
    return (int, float) if type(value) in (int, float) else (type(value),)
