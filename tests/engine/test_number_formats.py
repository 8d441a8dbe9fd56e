"""Number formats that a device does not have are refused by name, with one that it has."""

import pytest
import torch

from coderv2.engine.number_formats import check_card
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
