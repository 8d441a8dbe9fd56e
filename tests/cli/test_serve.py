"""coderv2 serve, as a program: what it says to try does work."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from coderv2.cli.serve import _origin, greeting
from coderv2.cli.serving import Others
from coderv2.server.listen import bind
from tests.cli.conftest import RunCommand
from tests.server.running import running
from tests.server.upstream.standin import StandIn


@dataclass
class Server:
    """A running program."""

    process: "subprocess.Popen[str]"
    greeting: str

    def curl(self, line: str) -> httpx.Response:
        """Does what the curl line would."""
        name, url, flag, header, data, body = shlex.split(line)
        assert (name, flag, data) == ("curl", "-H", "-d")
        return httpx.post(url, headers=dict([header.split(": ")]), content=body, timeout=60)


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[Server]:
    arguments = ["serve", str(tiny_checkpoint), "--port", "0", "--name", "tiny", "--max-model-len", "512"]
    process = subprocess.Popen(
        [sys.executable, "-m", "coderv2", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"CODERV2_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or "chat/completions" not in "".join(lines[-2:-1]):
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()
    yield Server(process, "".join(lines))
    process.kill()
    process.communicate()


def test_every_line_to_try_works(server: Server) -> None:
    lines = re.findall(r"^curl .*\\\n.*$", server.greeting, re.MULTILINE)
    answers = [server.curl(line.replace("\\\n", "")) for line in lines]
    assert [answer.status_code for answer in answers] == [200] * 3
    kinds = [answer.json()["object"] for answer in answers]
    assert kinds == ["text_completion", "text_completion", "chat.completion"]


def test_it_says_where_openai_clients_find_it(server: Server) -> None:
    match = re.search(r"base URL (http://127\.0\.0\.1:\d+/v1), any key, model tiny", server.greeting)
    assert match
    (card,) = httpx.get(f"{match[1]}/models").json()["data"]
    assert (card["id"], card["max_model_len"]) == ("tiny", 512)


def test_sigterm_ends_it_with_code_0_and_its_log_holds_no_prompt(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    _, errors = server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    assert re.search(r"INFO method=POST path=/v1/completions status=200 ms=\d+ id=req_\w+ prompt=\d+", errors)
    assert "quick_sort" not in errors
    assert "Traceback" not in errors


def test_a_port_in_use_is_one_line_before_anything_is_loaded(command: RunCommand) -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        outcome = command("serve", "/no/such/model", "--port", taken.getsockname()[1])
    assert outcome.code == 2
    assert "in use: choose another with --port" in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_model_that_cannot_infill_is_not_said_to() -> None:
    text = greeting("http://127.0.0.1:8000", "tiny", 64, fim=False)
    bodies = [json.loads(body) for body in re.findall(r"-d '(.*)'", text)]
    assert ["suffix" in body for body in bodies] == [False, False]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tensor-parallel", "2", "--expert-parallel", "4"), "are the same N, or one of them"),
        (("--data-parallel-attention",), "goes with --tensor-parallel or --expert-parallel"),
        (("--upstream-seconds", "5"), "--upstream-seconds goes with --upstream or --engine"),
        (("--fim-model", "other", "--expert-parallel", "2"), "--fim-model does not go with"),
        (("--upstream", "http://127.0.0.1:1", "--tensor-parallel", "2"), "runs already"),
        (("--upstream", "http://127.0.0.1:1", "--expert-parallel", "2"), "for what is computed here"),
        (
            ("--upstream", "http://127.0.0.1:1", "--fim-model", "x", "--dtype", "float32"),
            "--fim-model, --dtype: only",
        ),
        (("--upstream", "http://127.0.0.1:1", "--max-queue-seconds", "5"), "for what is computed here"),
        (("--engine", "vllm", "--no-graphs"), "for what is computed here"),
        (("--upstream-key", "x"), "--upstream-key goes with --upstream"),
        (("--allow-origin", "https://app.example.org/page"), "scheme and host alone"),
        (("--allow-host", "https://box.example.org"), "a name alone"),
        (("--fp8",), "go with --engine sglang or vllm"),
        (("--upstream", "http://127.0.0.1:1", "--max-model-len", "-5"), "is not in the range x>=1"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_starts(
    command: RunCommand, arguments: tuple[str, ...], complaint: str
) -> None:
    outcome = command("serve", "--port", "0", *arguments)
    assert outcome.code == 2
    assert complaint in " ".join(outcome.err.split())


def test_a_gguf_file_may_stand_before_other_servers(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Of the file a config.json was wanted."""
    file = tmp_path / "tiny.gguf"
    assert command("convert", tiny_checkpoint, file).code == 0
    with running(StandIn().app) as url:
        models = Others(str(file), None, [url]).load()
    assert models.name == "tiny"
    assert models.text.no_infill is None


def test_origins_are_as_browsers_write_them() -> None:
    assert _origin("https://App.example.org/") == "https://app.example.org"
