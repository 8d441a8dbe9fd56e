"""Tabby's segments."""

from coderv2.server.backend import Backend
from coderv2.server.dialects.tabby import MAX_TOKENS, job
from coderv2.server.schema.tabby import SegmentsRequest
from coderv2.text.fim import encode_fim, with_path
from tests.server.fakes import ScriptedEngine
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def _request(count: int) -> SegmentsRequest:
    opened = [{"filepath": f"{number}.py", "body": "x = 1"} for number in range(count)]
    segments = {"prefix": "a", "suffix": "b", "relevant_snippets_from_recently_opened_files": opened}
    return SegmentsRequest.model_validate({"segments": segments})


def test_the_best_snippets_stand_next_to_the_hole_and_stay_when_room_is_short() -> None:
    two = with_path("1.py", "x = 1") + with_path("0.py", "x = 1")
    expected = encode_fim(TOKENIZER, "a", "b", context=two)
    engine = ScriptedEngine(max_model_len=len(expected) + MAX_TOKENS)
    made = job(_request(9), Backend(engine, TOKENIZER))
    assert made.prompts == [expected]
    assert made.params.max_tokens == MAX_TOKENS


def test_without_snippets_it_is_a_plain_hole() -> None:
    made = job(_request(0), Backend(ScriptedEngine(max_model_len=40), TOKENIZER))
    assert made.prompts == [encode_fim(TOKENIZER, "a", "b")]
    assert made.params.max_tokens == 40 - len(made.prompts[0])
