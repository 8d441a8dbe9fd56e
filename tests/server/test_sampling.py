"""Fields of a request to the engine's parameters."""

from typing import Any

import pytest

from coderv2.errors import InvalidValue, Unsupported
from coderv2.server.defaults import SamplingDefaults
from coderv2.server.sampling import check_stream_options, refuse_what_is_not_honoured, sampling_params
from coderv2.server.schema.openai import Sampling


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
        "prediction": "x = 1",
        "draft_tokens": 3,
        "token_healing": True,
        "fim_reuse": "shifted",
        "skip_special_tokens": False,
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
        ("functions", [{}]),
        ("modalities", ["text", "audio"]),
        ("ignore_eos", True),
        ("use_beam_search", True),
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


def test_a_prediction_may_come_in_openais_form() -> None:
    body = {"prediction": {"type": "content", "content": [{"type": "text", "text": "x = 1"}]}}
    assert sampling_params(_sampling(**body), SamplingDefaults()).prediction == "x = 1"


def test_every_way_to_shape_an_answer_reaches_the_engine() -> None:
    schema = {"type": "object"}
    ways: list[dict[str, Any]] = [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}},
        {"structured_outputs": {"json": schema}},
        {"guided_json": schema},
    ]
    for way in ways:
        outputs = sampling_params(_sampling(**way), SamplingDefaults()).structured_outputs
        assert outputs is not None
        assert outputs.json == schema
    regex = sampling_params(_sampling(structured_outputs={"regex": "a+"}), SamplingDefaults())
    assert regex.structured_outputs is not None
    assert regex.structured_outputs.regex == "a+"
    loose = sampling_params(_sampling(response_format={"type": "json_object"}), SamplingDefaults())
    assert loose.structured_outputs is not None
    assert loose.structured_outputs.json_object


def test_two_ways_at_once_are_refused() -> None:
    with pytest.raises(InvalidValue, match="response_format and guided_regex") as caught:
        sampling_params(
            _sampling(response_format={"type": "json_object"}, guided_regex="a"), SamplingDefaults()
        )
    assert caught.value.param == "guided_regex"
