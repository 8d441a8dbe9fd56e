"""What `deterministic=True` needs besides its operations: a proof on this machine, and seeds that know no order.

An answer then depends on the weights, the machine (its processor, PyTorch and thread count), the prompt and the
request's parameters: not on what else runs, on what the cache holds, on the size of chunks, or on the order of arrival.
"""

from array import array
from collections.abc import Iterator, Sequence
from hashlib import sha256

import torch
from torch import Tensor, nn

from coderv2.engine.runner import Model
from coderv2.errors import Unsupported
from coderv2.kernels import invariant
from coderv2.model.config import ModelConfig
from coderv2.model.transformer import Transformer


@torch.inference_mode()
def prove(model: Model) -> None:
    """Raises Unsupported unless every kind of matrix product that this model makes is row-invariant here."""
    if model.device.type != "cpu":
        raise Unsupported(
            f"deterministic=True runs on the CPU so far, and the model is on {model.device}",
            param="deterministic",
        )
    # Packed weights have kernels that treat each row by itself: tests show it, and no library chooses behind them.
    packed = isinstance(model, Transformer) and model.packed
    matrices = _matrices(model, model.config) if isinstance(model, nn.Module) and not packed else ()
    for (shape, _), weight_OD in {(tuple(one.shape), one.stride()): one for one in matrices}.items():
        if (why := invariant.disagreement(weight_OD)) is not None:
            raise Unsupported(
                f"deterministic=True: on this machine {why} for a weight of shape {list(shape)} in "
                f"{weight_OD.dtype}; another CODERV2_THREADS or dtype may do",
                param="deterministic",
            )


def _matrices(model: nn.Module, config: ModelConfig) -> Iterator[Tensor]:
    """What rows are multiplied with, each in its layout: weights, one expert of a stack, a head, a block of keys."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            yield parameter if parameter.dim() == 2 else parameter[0]
    C, R = config.kv_lora_rank, config.qk_rope_head_dim
    like = next(model.parameters())
    key_NC, value_VC, block_KX = (
        torch.randn(rows, width, generator=torch.Generator().manual_seed(1)).to(like)
        for rows, width in ((config.qk_nope_head_dim, C), (config.v_head_dim, C), (invariant.KEYS, C + R))
    )
    yield from (key_NC.T, value_VC, block_KX, block_KX[:, :C].T)
    yield torch.randn(config.n_routed_experts, config.hidden_size)


def seed_of(prompt_ids: Sequence[int], base: int | None) -> int:
    """The seed of a request that brings none: from its prompt, and the engine's own seed."""
    digest = sha256(f"{base} ".encode() + array("Q", prompt_ids).tobytes()).digest()
    return int.from_bytes(digest[:7], "big")
