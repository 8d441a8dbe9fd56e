"""docs/guides/serve.md: its programs run, and it names every field and error code."""

import re
import shlex
from pathlib import Path

import httpx
import pytest

from coderv2.server import errors, limits
from coderv2.server.schema.openai import ChatRequest, CompletionRequest
from tests.server.conftest import Served

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text("utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)


def test_the_python_program_runs(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = _blocks("python")
    names: dict[str, object] = {}
    exec(program.replace("http://127.0.0.1:8000", served.url), names)
    assert len(capsys.readouterr().out) > 3
    names["client"].close()  # type: ignore[attr-defined]


def test_the_curl_lines_work(served: Served) -> None:
    for line in _blocks("sh"):
        url, _, header, _, body = shlex.split(line)[1:]
        headers = dict([header.split(": ")])
        answer = httpx.post(
            url.replace("http://127.0.0.1:8000", served.url),
            headers=headers,
            content=body.encode(),
            timeout=60,
        )
        assert answer.status_code == 200, answer.text


def test_every_field_and_error_code_is_named() -> None:
    for field in CompletionRequest.model_fields | ChatRequest.model_fields:
        assert f"`{field}`" in GUIDE, field
    codes = {code for _, _, _, code in errors._TABLE} | {"draining", "internal_error", "not_found"}
    for code in codes:
        assert f"`{code}`" in GUIDE, code
    assert f"{limits.MAX_BODY_BYTES >> 20} MiB" in GUIDE
