import pytest
import torch

from coderv2.engine.settings import affordable_tokens
from coderv2.model.cache import bytes_per_token
from tests.tiny import tiny_config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_affordable_cache_is_part_of_the_memory_that_is_free(dtype: torch.dtype) -> None:
    config = tiny_config()
    tokens = affordable_tokens(config, dtype, torch.device("cpu"))
    assert 2**20 < tokens * bytes_per_token(config, dtype) < 2**45
