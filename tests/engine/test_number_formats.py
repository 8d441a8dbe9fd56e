"""Number formats that a device does not have are refused by name, with one that it has."""

import pytest
import torch

from coderv2.engine.number_formats import cache_dtype, check_card, dtype
from coderv2.errors import Unsupported


def test_e4m3_needs_a_card_that_knows_it() -> None:
    with pytest.raises(Unsupported, match=r"quantization fp8 needs .* 8\.9, this GPU has 8\.6: take int4"):
        check_card((8, 6), "fp8", None)
    with pytest.raises(Unsupported, match=r"fp8_e4m3 needs .* 8\.9, this GPU has 8\.0: take fp8_e5m2"):
        check_card((8, 0), "int4", torch.float8_e4m3fn)


def test_other_formats_every_card_knows() -> None:
    check_card((8, 0), "int4", torch.float8_e5m2)
    check_card((8, 9), "fp8", torch.float8_e4m3fn)
    check_card((10, 0), "fp8", None)


@pytest.mark.parametrize(
    "wrong", [torch.int8, torch.float64, torch.float16, torch.float8_e4m3fn, "half", "int8", "nonsense"]
)
def test_what_nothing_computes_in_is_refused_by_name(wrong: str | torch.dtype) -> None:
    with pytest.raises(Unsupported, match=r"dtype .* is not supported: use auto, bfloat16 or float32"):
        dtype(wrong, "dtype")


def test_what_a_model_can_compute_in_and_a_cache_can_hold_has_its_names() -> None:
    assert [dtype(name, "dtype") for name in ("auto", "float", torch.bfloat16)] == [
        None,
        torch.float32,
        torch.bfloat16,
    ]
    assert cache_dtype("int8", "cpu") == torch.int8


@pytest.mark.parametrize("wrong", ["int9", "half"])
def test_a_cache_that_there_is_not_is_told_with_all_that_there_are(wrong: str) -> None:
    """The list left int8 and fp8 out."""
    with pytest.raises(Unsupported, match="there are auto, bfloat16, float32, int8, fp8, fp8_e4m3, fp8_e5m2"):
        cache_dtype(wrong, "cpu")
