"""docs/clients: every block can be read by what reads it, and what it names is served."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.server.fakes import ScriptedEngine, post, request, said, scripted_app

PAGES = sorted((Path(__file__).parents[3] / "docs" / "clients").glob("*.md"))
HI = [{"role": "user", "content": "Hi"}]
HOLE: dict[str, Any] = {"prompt": "a", "suffix": "b"}
# What each program puts behind the address of its page, and sends there.
JOINED: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "continue.md": [
        ("http://localhost:8000/", "beta/completions", HOLE),
        ("http://localhost:8000/v1/", "chat/completions", {"messages": HI}),
        ("http://localhost:8000", "/api/generate", HOLE),
    ],
    "zed.md": [
        ("http://localhost:8000/v1/completions", "", {"prompt": "a"}),
        ("http://localhost:8000/v1", "/chat/completions", {"messages": HI}),
    ],
    "tabby.md": [
        ("http://localhost:8000/beta", "/completions", HOLE),
        ("http://localhost:8000", "/v1/completions", {"segments": {"prefix": "a", "suffix": "b"}}),
        ("http://localhost:8000/v1", "/chat/completions", {"messages": HI}),
    ],
    "llama-vim.md": [
        ("http://localhost:8000/infill", "", {"input_prefix": "a", "input_suffix": "b", "prompt": ""}),
        ("http://localhost:8000/v1/chat/completions", "", {"messages": HI}),
        ("http://localhost:8000", "/infill", {"input_prefix": "a", "input_suffix": "b", "prompt": ""}),
    ],
    "minuet.md": [("http://localhost:8000/beta/completions", "", HOLE)],
    "aider.md": [("http://localhost:8000/v1", "/chat/completions", {"messages": HI})],
    "codex.md": [("http://localhost:8000/v1", "/responses", {"input": "Hi"})],
    "claude-code.md": [
        ("http://localhost:8000/anthropic", "/v1/messages", {"messages": HI, "max_tokens": 9})
    ],
    "cline.md": [("http://localhost:8000/v1", "/chat/completions", {"messages": HI})],
    "llm.md": [("http://localhost:8000/v1", "/chat/completions", {"messages": HI})],
    "README.md": [("http://localhost:8000", "/v1/completions", {"prompt": "a"})],
}


def _blocks(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_served(page: Path) -> None:
    text = page.read_text("utf-8")
    addresses = set(re.findall(r"http://localhost:8000[\w/]*", text))
    assert addresses == {base for base, _, _ in JOINED[page.name]}
    for base, path, body in JOINED[page.name]:
        app = scripted_app(ScriptedEngine(said("x")))
        where = f"{base}{path}".removeprefix("http://localhost:8000")
        for model in re.findall(r"deepseek-coder(?:-v2)?\b", text)[:1]:
            assert post(app, where, **body, model=model).status_code == 200, where
        assert request(app, "GET", "/v1/models").status_code == 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_data_can_be_read(page: Path) -> None:
    readers: dict[str, Any] = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
    for language, block in _blocks(page.read_text("utf-8")):
        if language in readers:
            assert readers[language](block)
