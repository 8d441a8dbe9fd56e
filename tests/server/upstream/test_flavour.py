"""What each kind of server is sent."""

from typing import Any

import pytest

from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.engine.params import SamplingParams
from coderv2.errors import Unsupported
from coderv2.server.upstream.flavour import body, flavour
from coderv2.text.fim import encode_fim
from coderv2.text.tokenizer import FIM_BEGIN, FIM_END, FIM_HOLE
from tests.tiny_tokenizer import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
SCHEMA = {"type": "object"}


def _body(owner: str, prompt: list[int] | None = None, **params: Any) -> dict[str, Any]:
    return body(flavour(owner), "m", prompt or [5, 6], SamplingParams(**params), TOKENIZER)


def test_what_is_not_asked_for_is_not_sent() -> None:
    assert _body("vllm", temperature=0.5).keys() == {
        "model", "prompt", "n", "max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty",
        "stream", "stream_options", "return_token_ids",
    }  # fmt: skip


def test_a_hole_goes_as_text_where_ids_are_not_taken() -> None:
    sent = _body("me", encode_fim(TOKENIZER, "def f(", "):\n"))
    assert sent["prompt"] == f"{FIM_BEGIN}def f({FIM_HOLE}):\n{FIM_END}"


def test_text_that_would_become_a_mark_there_is_refused() -> None:
    with pytest.raises(Unsupported, match="takes prompts as text only") as caught:
        _body("me", encode_fim(TOKENIZER, FIM_END, ""))
    assert caught.value.param == "prompt"
    assert _body("vllm", encode_fim(TOKENIZER, FIM_END, ""))["prompt"]


@pytest.mark.parametrize(
    ("owner", "wanted", "sent"),
    [
        ("vllm", {"json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}),
        ("coderv2", {"regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
        ("sglang", {"regex": "a+"}, {"regex": "a+"}),
        ("sglang", {"json_object": True}, {"json_schema": {"type": "object"}}),
    ],
)
def test_structured_output_in_each_ones_words(owner: str, wanted: Any, sent: Any) -> None:
    assert sent.items() <= _body(owner, structured_outputs=StructuredOutputsParams(**wanted)).items()


@pytest.mark.parametrize(
    ("owner", "params", "named"),
    [
        ("somebody", {"top_k": 5}, "top_k"),
        ("somebody", {"logprobs": 1, "prompt_logprobs": 1}, "logprobs"),
        ("me", {"n": 2}, "n"),
        ("me", {"structured_outputs": StructuredOutputsParams(regex="a")}, "structured_outputs"),
        ("sglang", {"structured_outputs": StructuredOutputsParams(choice=["a"])}, "structured_outputs"),
        ("vllm", {"logprobs": 1}, "logprobs"),
        ("vllm", {"token_healing": True}, "token_healing"),
        ("llamacpp", {"min_tokens": 1}, "min_tokens"),
    ],
)
def test_what_a_kind_does_not_know_is_refused_by_name(owner: str, params: Any, named: str) -> None:
    with pytest.raises(Unsupported) as caught:
        _body(owner, **params)
    assert caught.value.param == named


@pytest.mark.parametrize("owner", ["llamacpp", "me"])
def test_llama_cpp_is_told_all_since_its_silence_means_40_of_top_k_and_more(owner: str) -> None:
    sent = _body(owner)
    assert (sent["top_k"], sent["min_p"], sent["repeat_penalty"]) == (0, 0.0, 1.0)
    assert _body(owner, top_k=-1)["top_k"] == 0
    assert _body(owner, repetition_penalty=1.5)["repeat_penalty"] == 1.5
