"""Real clients against the bundled model: anthropic, llm, aider. (openai is in our own environment: `test_app`.)"""

import json
from pathlib import Path

import pytest

from coderv2.engine.params import SamplingParams
from tests.server.conftest import Served
from tests.server.outside.conftest import Program

pytestmark = pytest.mark.slow

ANTHROPIC = """
import anthropic, sys
client = anthropic.Anthropic(base_url=sys.argv[1], auth_token="EMPTY", max_retries=0)
messages = [{"role": "user", "content": "Write a function that adds two numbers."}]
greedy = {"extra_body": {"temperature": 0}}  # newer releases of the client name no temperature
whole = client.messages.create(model="claude-sonnet", max_tokens=12, messages=messages, **greedy)
with client.messages.stream(model="claude-sonnet", max_tokens=12, messages=messages, **greedy) as stream:
    streamed = "".join(stream.text_stream)
    last = stream.get_final_message()
assert whole.content[0].text == streamed, (whole, streamed)
assert last.usage.output_tokens == whole.usage.output_tokens
schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}
tool = {"name": "add", "description": "Adds.", "input_schema": schema}
count = client.messages.count_tokens(model="claude-sonnet", messages=messages, tools=[tool])
must = {"tools": [tool], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
with client.messages.stream(model="claude-sonnet", max_tokens=64, messages=messages, **must) as stream:
    used = stream.get_final_message()
assert used.usage.input_tokens == count.input_tokens
if used.stop_reason == "tool_use":
    assert isinstance(used.content[-1].input["a"], int)
try:
    client.messages.create(model="gpt-4", max_tokens=1, messages=messages)
except anthropic.NotFoundError as error:
    assert error.body["error"]["type"] == "not_found_error"
print(streamed)
"""


def test_c2_anthropic(bundled: Served, program: Program) -> None:
    done = program("python", "-c", ANTHROPIC, bundled.url)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


def test_c13_llm(bundled: Served, program: Program, tmp_path: Path) -> None:
    models = f"""
- model_id: coderv2
  model_name: deepseek-coder-v2
  api_base: {bundled.url}/v1
  supports_schema: true
- model_id: coderv2-completion
  model_name: deepseek-coder-v2
  api_base: {bundled.url}/v1
  completion: true
"""
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    env = {"LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "EMPTY"}
    said = program(
        "llm", "-m", "coderv2", "-o", "max_tokens", "12", "-o", "temperature", "0", "Say hello", env=env
    )
    assert said.returncode == 0, said.stderr[-2000:]
    (expected,) = bundled.offline.chat(
        [{"role": "user", "content": "Say hello"}],
        SamplingParams(temperature=0, max_tokens=12),
        use_tqdm=False,
    )
    assert said.stdout.strip() == expected.outputs[0].text.strip()
    # Closed, since ten million weights do not know when to stop inventing further keys.
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    made = program(
        "llm", "-m", "coderv2", "--schema", json.dumps(schema), "-o", "max_tokens", "400", "Is it?", env=env
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert isinstance(json.loads(made.stdout)["ok"], bool)
    completed = program("llm", "-m", "coderv2-completion", "-o", "max_tokens", "8", "def add(", env=env)
    assert completed.returncode == 0, completed.stderr[-2000:]


def test_c12_aider(bundled: Served, program: Program, tmp_path: Path) -> None:
    (tmp_path / "add.py").write_text("def add(a, b):\n    return a\n")
    env = {
        "OPENAI_API_BASE": f"{bundled.url}/v1",
        "OPENAI_API_KEY": "EMPTY",
        "AIDER_ANALYTICS_DISABLE": "true",
    }
    options = [
        "--no-git",
        "--yes-always",
        "--no-check-update",
        "--no-show-model-warnings",
        "--no-show-release-notes",
    ]
    settings = "- name: openai/deepseek-coder-v2\n  edit_format: whole\n  extra_params:\n    max_tokens: 16\n"
    (tmp_path / ".aider.model.settings.yml").write_text(settings)
    done = program(
        "aider",
        *options,
        "--model",
        "openai/deepseek-coder-v2",
        "--message",
        "Return a + b.",
        "add.py",
        env=env,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stdout + done.stderr
