"""Types as llama-quantize chooses them, by hand from its rules; `tests/interop` compares with the program itself."""

import pytest

from coderv2.model.gguf_types import FILE_TYPES, type_of

LITE = {
    # Rows of 2,048 columns, a multiple of 256; 128, 512, 1,408 and 10,944 as Lite has them.
    "token_embd.weight": ((102400, 2048), "Q4_K"),
    "output.weight": ((102400, 2048), "Q6_K"),
    "output_norm.weight": ((2048,), "F32"),
    "blk.1.attn_norm.weight": ((2048,), "F32"),
    "blk.1.attn_q.weight": ((3072, 2048), "Q4_K"),
    "blk.1.attn_k_b.weight": ((16, 512, 128), "Q5_0"),
    "blk.1.attn_v_b.weight": ((16, 128, 512), "Q4_K"),
    "blk.1.attn_output.weight": ((2048, 2048), "Q4_K"),
    "blk.1.ffn_gate_inp.weight": ((64, 2048), "F32"),
    "blk.1.ffn_up_exps.weight": ((64, 1408, 2048), "Q4_K"),
    "blk.0.ffn_down.weight": ((2048, 10944), "Q8_0"),
    "blk.1.ffn_down_exps.weight": ((64, 2048, 1408), "Q8_0"),
    "blk.3.ffn_down_exps.weight": ((64, 2048, 1408), "Q5_0"),
    "blk.5.ffn_down_exps.weight": ((64, 2048, 1408), "Q8_0"),
    "blk.23.ffn_down_shexp.weight": ((2048, 2816), "Q6_K"),
    "blk.22.ffn_down_shexp.weight": ((2048, 2816), "Q4_K"),
}


@pytest.mark.parametrize("name", LITE)
def test_q4_k_m_of_lite(name: str) -> None:
    shape, expected = LITE[name]
    assert type_of(FILE_TYPES["q4_k_m"], name, shape, layers=27, experts=64) == expected


def test_attention_of_eight_experts_gets_a_bit_more() -> None:
    name, shape = "blk.2.attn_output.weight", (2048, 2048)
    assert type_of(FILE_TYPES["q4_k_m"], name, shape, layers=5, experts=8) == "Q5_K"
    assert type_of(FILE_TYPES["q4_k_m"], name, (256, 128), layers=5, experts=8) == "Q5_1"
    assert type_of(FILE_TYPES["q5_k_m"], name, shape, layers=5, experts=8) == "Q5_K"


@pytest.mark.parametrize("kind", ["q8_0", "q6_k", "q5_k_m", "q4_k_m"])
def test_rows_that_fit_no_block_stay_float16(kind: str) -> None:
    assert type_of(FILE_TYPES[kind], "blk.1.ffn_down_exps.weight", (4, 64, 24), 3, 4) == "F16"


def test_logits_of_rows_of_part_of_a_block_get_eight_bits() -> None:
    assert type_of(FILE_TYPES["q4_k_m"], "output.weight", (600, 64), 3, 16) == "Q8_0"


def test_plain_files_hold_one_type_and_float32() -> None:
    for kind in ("f32", "bf16"):
        assert type_of(FILE_TYPES[kind], "output.weight", (600, 64), 3, 16) == kind.upper()
        assert type_of(FILE_TYPES[kind], "blk.1.ffn_gate_inp.weight", (16, 64), 3, 16) == "F32"
