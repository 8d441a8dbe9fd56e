"""What a backend can do, and what a delta brought."""

import pytest

from coderv2.engine.request import Delta
from coderv2.errors import Unsupported
from coderv2.server.backend import Backend, CountedDelta, tokens_of, why_no_infill
from tests.server.fakes import ScriptedEngine
from tests.tiny import tiny_config
from tests.tiny_tokenizer import tiny_tokenizer


def test_a_delta_counts_by_its_ids_unless_it_says_how_many() -> None:
    assert tokens_of(Delta("r", 0, "ab", (1, 2))) == 2
    assert tokens_of(CountedDelta("r", 0, "ab", completion_tokens=7)) == 7


def test_only_the_236b_and_tokenizers_without_marks_cannot_infill() -> None:
    tokenizer = tiny_tokenizer()
    assert why_no_infill(tokenizer) is None
    assert why_no_infill(tokenizer, tiny_config("lite")) is None
    large = tiny_config("full", hidden_size=5120, num_hidden_layers=60)
    assert "236B" in str(why_no_infill(tokenizer, large))
    assert "--fim-model" in str(why_no_infill(tokenizer, large))


def test_the_reason_is_what_the_caller_hears() -> None:
    Backend(ScriptedEngine(), tiny_tokenizer()).check_infill()
    with pytest.raises(Unsupported, match="because of that") as caught:
        Backend(ScriptedEngine(), tiny_tokenizer(), no_infill="because of that").check_infill()
    assert caught.value.param == "suffix"
