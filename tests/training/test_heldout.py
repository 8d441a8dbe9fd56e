import math
from pathlib import Path

import pytest

from coderv2.engine.llm import LLM
from coderv2.model import weights
from coderv2.text.tokenizer import Tokenizer
from coderv2.training import heldout
from tests.data.fakes import document

CODE = "import os\n\n\n" + "".join(f"def function_{n}(x):\n    return x + {n}\n\n\n" for n in range(12))


def test_an_even_guess_costs_the_bits_of_the_vocabulary(tiny_checkpoint: Path) -> None:
    model, tokenizer = weights.load(tiny_checkpoint), Tokenizer.from_folder(tiny_checkpoint)
    model.lm_head.zero_()
    text = "x = 1\n" * 50
    tokens = len(tokenizer.encode(text))
    length = heldout.code_length(model, tokenizer, [document(text)])
    assert length.bits_per_byte == pytest.approx(
        tokens * math.log2(model.config.vocab_size) / len(text), rel=1e-4
    )


def test_rates_of_a_random_model_are_shares_and_repeat(tiny_checkpoint: Path) -> None:
    llm = LLM(tiny_checkpoint)
    for rate in (heldout.exact_line_rate, heldout.parse_rate):
        first = rate(llm, [document(CODE)], 2)
        assert 0 <= first <= 1
        assert rate(llm, [document(CODE)], 2) == first


@pytest.mark.parametrize(
    ("completion", "good"),
    [
        ("    return 1\n", True),
        ("    return 1\n\n\ndef g():\n    x = (\n", True),  # cut before the head that has no body
        ("    x = (\n    y\n", False),
        ("    x = 1\n    y = (\n", True),
        ("    x = 1\n    y = [\n    z = (\n", False),
        ("    x = 1\n    y = 2\n    z = (\n    z\n", True),  # half of them cut
        ("", False),
        ("    return 1\n    ]\n    ]\n    ]\n", False),  # more than half would have to go
    ],
)
def test_a_completion_counts_when_it_parses_after_a_small_cut(completion: str, good: bool) -> None:
    assert heldout.completes("def f():\n", completion) is good
