"""Fields of a request to the engine's parameters."""

from typing import Any

import pytest

from coderv2.errors import InvalidValue, Unsupported
from coderv2.server.defaults import SamplingDefaults
from coderv2.server.sampling import check_stream_options, refuse_what_is_not_honoured, sampling_params
from coderv2.server.schema import Sampling


def _sampling(**body: Any) -> Sampling:
    return Sampling.model_validate(body)


def test_every_field_reaches_the_engine() -> None:
    body = {
        "n": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "min_tokens": 1,
        "stop": ["a"],
        "stop_token_ids": [7],
        "seed": 3,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "logit_bias": {"5": 1.0},
    }
    params = sampling_params(_sampling(**body), SamplingDefaults(), max_tokens=9, logprobs=4)
    assert (params.max_tokens, params.logprobs) == (9, 4)
    for name, value in body.items():
        assert getattr(params, name) == ({5: 1.0} if name == "logit_bias" else value)


def test_the_models_defaults_hold_only_where_the_request_is_silent() -> None:
    defaults = SamplingDefaults(temperature=0.3, top_p=0.95)
    silent = sampling_params(_sampling(), defaults, max_tokens=1, logprobs=None)
    explicit = sampling_params(_sampling(temperature=0, top_p=0.5), defaults, max_tokens=1, logprobs=None)
    assert (silent.temperature, silent.top_p) == (0.3, 0.95)
    assert (explicit.temperature, explicit.top_p) == (0, 0.5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function"}),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("modalities", ["text", "audio"]),
        ("ignore_eos", True),
        ("guided_regex", "a+"),
        ("continue_final_message", True),
    ],
)
def test_what_changes_the_answer_and_is_not_honoured_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(Unsupported, match=field) as caught:
        refuse_what_is_not_honoured(_sampling(**{field: value}))
    assert caught.value.param == field


def test_values_that_ask_for_nothing_pass() -> None:
    refuse_what_is_not_honoured(
        _sampling(
            tools=[],
            tool_choice="none",
            response_format={"type": "text"},
            ignore_eos=False,
            functions=None,
            user="me",
            metadata={},
            parallel_tool_calls=False,
            reasoning_effort="low",
        )
    )


def test_stream_options_need_a_stream() -> None:
    check_stream_options(_sampling(stream=True, stream_options={"include_usage": True}))
    with pytest.raises(InvalidValue) as caught:
        check_stream_options(_sampling(stream_options={"include_usage": True}))
    assert caught.value.param == "stream_options"
