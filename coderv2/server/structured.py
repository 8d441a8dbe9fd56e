"""The ways in which requests say what the whole answer must match → one of the engine's grammars."""

from typing import Any

from coderv2.engine.grammar import StructuredOutputsParams
from coderv2.errors import InvalidValue
from coderv2.server.schema.openai import ResponseFormat, Sampling


def structured_outputs(request: Sampling) -> StructuredOutputsParams | None:
    """Raises InvalidValue for more than one way at once, or a schema that is none."""
    ways = [(name, params) for name, params in _ways(request) if params is not None]
    if len(ways) > 1:
        names = " and ".join(name for name, _ in ways)
        raise InvalidValue(f"{names} each say what the answer must match; send one", param=ways[1][0])
    return ways[0][1] if ways else None


def _ways(request: Sampling) -> list[tuple[str, StructuredOutputsParams | None]]:
    wanted = request.structured_outputs
    given = {} if wanted is None else wanted.model_dump(by_alias=True, exclude_unset=True, include=_NAMES)
    return [
        ("response_format", of_format(request.response_format)),
        ("structured_outputs", StructuredOutputsParams(**given) if given else None),
        ("guided_json", _one(json=request.guided_json)),
        ("guided_regex", _one(regex=request.guided_regex)),
        ("guided_choice", _one(choice=request.guided_choice)),
        ("guided_grammar", _one(grammar=request.guided_grammar)),
    ]


_NAMES = {"json_schema", "regex", "choice", "grammar", "json_object"}


def _one(**kind: Any) -> StructuredOutputsParams | None:
    return None if None in kind.values() else StructuredOutputsParams(**kind)


def of_format(format: ResponseFormat | None) -> StructuredOutputsParams | None:
    """OpenAI's `response_format`; a schema is enforced with and without `strict`."""
    if format is None or format.type == "text":
        return None
    if format.type == "json_object":
        return StructuredOutputsParams(json_object=True)
    if format.json_schema is None:
        raise InvalidValue("type json_schema needs a json_schema", param="response_format.json_schema")
    return of_schema(format.json_schema.json_schema)


def of_schema(schema: dict[str, Any] | bool | None) -> StructuredOutputsParams:
    """JSON that follows it; True and None are any JSON object."""
    if schema is None or schema is True:
        return StructuredOutputsParams(json_object=True)
    return StructuredOutputsParams(json=schema)  # type: ignore[arg-type]  # False is a schema: the engine refuses it
