"""Ways to say what the whole answer must match."""

from typing import Any

import pytest

from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.errors import InvalidValue
from coderv2.server.schema.openai import CompletionRequest, ResponseFormat
from coderv2.server.structured import of_format, of_schema, structured_outputs

SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, StructuredOutputsParams(json_object=True)),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, StructuredOutputsParams(json=SCHEMA)),
        ({"type": "json_schema", "json_schema": {"schema": True}}, StructuredOutputsParams(json_object=True)),
    ],
)
def test_openais_formats(wanted: Any, expected: StructuredOutputsParams | None) -> None:
    assert of_format(None if wanted is None else ResponseFormat.model_validate(wanted)) == expected


def test_a_schema_that_is_missing_is_named() -> None:
    with pytest.raises(InvalidValue) as caught:
        of_format(ResponseFormat(type="json_schema"))
    assert caught.value.param == "response_format.json_schema"
    assert of_schema(None) == StructuredOutputsParams(json_object=True)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"guided_json": SCHEMA}, {"json": SCHEMA}),
        ({"structured_outputs": {"json": SCHEMA}}, {"json": SCHEMA}),
        ({"structured_outputs": {"regex": "a"}}, {"regex": "a"}),
    ],
)
def test_vllms_names_for_the_same(fields: Any, expected: Any) -> None:
    request = CompletionRequest.model_validate({"prompt": "a", **fields})
    assert structured_outputs(request) == StructuredOutputsParams(**expected)


def test_two_ways_name_the_second() -> None:
    request = CompletionRequest(prompt="a", guided_regex="a", guided_choice=["b"])
    with pytest.raises(InvalidValue, match="guided_regex and guided_choice") as caught:
        structured_outputs(request)
    assert caught.value.param == "guided_choice"
