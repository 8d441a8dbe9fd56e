"""The programs that DeepSeek-Coder-V2's README gives its users run on our bundled checkpoint.

Only the model's path is changed (and for vLLM the import): see launch_program.py for what surrounds them.
"""

import ast
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderv2 import paths

HERE = Path(__file__).parent
BASE = f"deepseek-ai/DeepSeek-Coder-V2-Lite-Base={paths.bundled_model()}"
INSTRUCT = f"deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct={paths.bundled_model()}"
README_PORT = 30000

pytestmark = pytest.mark.slow


def _run(program: str, *replacements: str) -> str:
    command = [
        sys.executable,
        str(HERE / "launch_program.py"),
        str(HERE / "readme_programs" / program),
        *replacements,
    ]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_transformers_code_completion() -> None:
    out = _run("transformers_completion.py", BASE)
    assert out.startswith("#write a quick sort algorithm")
    assert len(out) > len("#write a quick sort algorithm\n")


def test_transformers_code_insertion() -> None:
    middle = _run("transformers_insertion.py", BASE)
    assert middle.strip(), "the hole stays empty"
    assert "fim" not in middle, "the prompt was cut at the wrong place"


def test_transformers_chat_completion_sorts() -> None:
    reply = _run("transformers_chat.py", INSTRUCT)
    fence = re.search(r"```python\n(.*?)```", reply, re.DOTALL)
    assert fence, reply
    scope: dict[str, object] = {}
    exec(fence[1], scope)
    sorters = [f for name, f in scope.items() if "sort" in name and callable(f)]
    assert any(f([3, 1, 2, 3]) == [1, 2, 3, 3] for f in sorters), reply


def test_offline_program_written_for_vllm() -> None:
    out = _run("offline.py", INSTRUCT, "from vllm import=from coderv2 import")
    answers = ast.literal_eval(out.strip().splitlines()[-1])
    assert len(answers) == 3
    assert all(answer.strip() for answer in answers)
    assert "def quick_sort" in answers[1]


@pytest.fixture
def server() -> Iterator[None]:
    """`coderv2 serve` where the README's client program looks for it."""
    command = [sys.executable, "-m", "coderv2", "serve", "--port", str(README_PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            _await_health(process)
            yield
        finally:
            process.terminate()


def _await_health(process: "subprocess.Popen[str]") -> None:
    for _ in range(120):
        if process.poll() is not None:
            pytest.fail(f"server ended: {process.stdout.read() if process.stdout else ''}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{README_PORT}/health", timeout=1).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail("server did not become healthy within a minute")


@pytest.mark.usefixtures("server")
def test_openai_client_program() -> None:
    out = _run("openai_client.py")
    assert out.startswith("ChatCompletion(id=")
    assert "finish_reason=" in out
    assert "object='chat.completion'" in out
