"""Functions that the model may call: how they stand in the prompt, how a call is written, and which calls are allowed.

DeepSeek-Coder-V2 was published without a template for tools. This is ours, in plain text, since its control tokens for
tools were never trained: the functions come first, as system text, one JSON object a line; a call is

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Hangzhou"}}
    </tool_call>

and what came of it is a user's turn between <tool_response> and </tool_response>. `toolcalls` reads calls back.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_INTRODUCTION = """\
You can call functions. Each of these lines describes one as JSON:
{functions}

To call a function, write this and nothing after it, once for each call:
<tool_call>
{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}
</tool_call>
What came of a call is given to you between <tool_response> and </tool_response>."""
# Without an end to white space, a model that has lost its way writes nothing else.
_BOUNDED: Mapping[str, Any] = {"whitespace_pattern": r"[ \n\r\t]{0,64}"}


@dataclass(frozen=True)
class Tool:
    """A function by its name, its purpose and the JSON Schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False
    """Whether every call must follow the schema, also where calling is the model's own decision."""

    @property
    def schema(self) -> Mapping[str, Any]:
        """What its arguments are, at least an object."""
        return self.parameters or {"type": "object"}


def introduce(tools: Sequence[Tool]) -> str:
    """The system text that names the functions and says how to call them."""
    lines = (
        json.dumps(
            {"name": tool.name, "description": tool.description, "parameters": tool.schema},
            ensure_ascii=False,
        )
        for tool in tools
    )
    return _INTRODUCTION.format(functions="\n".join(lines))


def written_call(name: str, arguments: str) -> str:
    """A call as the model would write it; `arguments` is JSON text."""
    return f'{OPEN}\n{{"name": {json.dumps(name)}, "arguments": {arguments or "{}"}}}\n{CLOSE}'


def written_result(content: str) -> str:
    """What came of a call, as a user's turn."""
    return f"<tool_response>\n{content}\n</tool_response>"


def required_calls(tools: Sequence[Tool], *, several: bool) -> str:
    """A Lark grammar: one call or more, and nothing else."""
    return "\n".join([f'start: " "? call{_more(several)}', *_rules(tools)])


def strict_calls(tools: Sequence[Tool], *, several: bool) -> str:
    """A Lark grammar: any text; but once it calls, nothing but calls of `tools` follows, and strict ones are so."""
    start = [
        f"start: PLAIN | OPENED body{_more(several)}",
        f"PLAIN: /(?s:.*)/ & ~/(?s:.*){OPEN}(?s:.*)/",
        f'OPENED: PLAIN "{OPEN}"',
    ]
    return "\n".join([*start, *_rules(_loose(tools))])


def calls_or_json(tools: Sequence[Tool], schema: Mapping[str, Any], *, several: bool) -> str:
    """A Lark grammar: JSON that follows the schema, or calls of `tools`, of which strict ones follow theirs."""
    start = [
        f'start: " "? (answer | call{_more(several)})',
        f"answer: %json {json.dumps({**schema, 'x-guidance': _BOUNDED})}",
    ]
    return "\n".join([*start, *_rules(_loose(tools))])


def _loose(tools: Sequence[Tool]) -> list[Tool]:
    return [tool if tool.strict else Tool(tool.name) for tool in tools]


def _more(several: bool) -> str:
    return ' ("\\n" call)*' if several else ""


def _rules(tools: Sequence[Tool]) -> list[str]:
    """`call`, and its `body` behind the opening tag."""
    bodies = [f"body{place}" for place in range(len(tools))]
    return [
        f'call: "{OPEN}" body',
        f"body: {' | '.join(bodies)}",
        *(_rule(name, tool) for name, tool in zip(bodies, tools, strict=True)),
    ]


def _rule(name: str, tool: Tool) -> str:
    before, after = written_call(tool.name, "\0").removeprefix(OPEN).split("\0")
    schema = {**tool.schema, "x-guidance": _BOUNDED}
    return (
        f"{name}: {json.dumps(before)} {name}args {json.dumps(after)}\n{name}args: %json {json.dumps(schema)}"
    )
