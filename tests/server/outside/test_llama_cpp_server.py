"""llama-cpp-python's server behind our door: another engine, serving our model as we export it to GGUF.

`make .venv/installed-llama-cpp` builds it, which takes minutes; CODERV2_PEER_PYTHON names another Python that has it.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from coderv2 import paths
from coderv2.engine.llm import LLM
from coderv2.engine.request import SamplingParams
from coderv2.model.gguf_export import export
from coderv2.model.gguf_types import FILE_TYPES
from coderv2.server.app import create_app
from coderv2.server.backend import Backend
from coderv2.server.caller import Accounts
from coderv2.server.door import Door
from coderv2.server.keys import Keys
from coderv2.server.models import Models
from coderv2.server.upstream.engine import Upstreams
from coderv2.server.upstream.launch import free_port
from tests.server.fakes import key
from tests.server.running import eventually, running

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("CODERV2_PEER_PYTHON", sys.executable)
LONG = "def add(first, second):\n    return first + second\n\n\n" * 12
HOLE: dict[str, Any] = {"prompt": "def add(a, b):\n    return ", "suffix": "\n\nprint(add(1, 2))\n"}


@dataclass
class LlamaCpp:
    """One running server of theirs."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path

    @property
    def answered(self) -> int:
        """Completions that it has begun to answer."""
        return self.log.read_text("utf-8").count("POST /v1/completions")

    def lives(self) -> bool:
        """True once it answers; it must not have ended."""
        assert self.process.poll() is None, self.log.read_text("utf-8")[-2000:]
        try:
            return httpx.get(f"{self.url}/v1/models").is_success
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "bundled.gguf"
    export(paths.bundled_model(), path, FILE_TYPES["f32"], name="bundled")
    return path


@contextmanager
def _two(gguf: Path, folder: Path) -> Iterator[list[LlamaCpp]]:
    look = subprocess.run(
        [PYTHON, "-c", "import llama_cpp.server.app"], capture_output=True, text=True, check=False
    )
    if look.returncode:
        pytest.skip(f"{look.stderr.splitlines()[-1]}: make .venv/installed-llama-cpp")
    started = [_start(gguf, folder / f"server{number}.log") for number in range(2)]
    try:
        for server in started:
            eventually(server.lives, seconds=120)
        yield started
    finally:
        for server in started:
            server.process.kill()
            server.process.wait()


def _start(gguf: Path, log: Path) -> LlamaCpp:
    port = free_port()
    options = {"model": gguf, "port": port, "n_ctx": 1024, "n_threads": 1, "interrupt_requests": "false"}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PYTHON, "-m", "llama_cpp.server", *arguments], stdout=output, stderr=subprocess.STDOUT
        )
    return LlamaCpp(process, f"http://127.0.0.1:{port}", log)


@pytest.fixture(scope="module")
def offline() -> LLM:
    return LLM(paths.bundled_model())


@dataclass
class Front:
    """Our door before them."""

    client: openai.OpenAI
    upstreams: Upstreams
    door: Door


@pytest.fixture(scope="module")
def front(gguf: Path, tmp_path_factory: pytest.TempPathFactory, offline: LLM) -> Iterator[Front]:
    with _two(gguf, tmp_path_factory.mktemp("two")) as servers, _before(servers, offline) as front:
        yield front


@contextmanager
def _before(servers: list[LlamaCpp], offline: LLM) -> Iterator[Front]:
    tokenizer = offline.engine.tokenizer
    upstreams = Upstreams([server.url for server in servers], tokenizer, 1024)
    accounts = Accounts(Keys([key("al", tokens_per_minute=10**6)]))
    door = Door(Models.of("front", Backend(upstreams, tokenizer)), accounts)
    with (
        running(create_app(door)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="secret-al", max_retries=0) as client,
    ):
        yield Front(client, upstreams, door)


def _complete(front: Front, prompt: str, **options: Any) -> Any:
    return front.client.completions.create(
        model="front", prompt=prompt, temperature=0, **{"max_tokens": 16} | options
    )


def test_it_answers_as_our_own_engine_does(front: Front, offline: LLM) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=16)
    (plain,) = offline.generate("def quick_sort(arr):", greedy, use_tqdm=False)
    (filled,) = offline.infill(HOLE["prompt"], HOLE["suffix"], greedy, use_tqdm=False)
    (talked,) = offline.chat([{"role": "user", "content": "Hi"}], greedy, use_tqdm=False)
    assert _complete(front, "def quick_sort(arr):").choices[0].text == plain.outputs[0].text
    assert _complete(front, **HOLE).choices[0].text == filled.outputs[0].text
    said = front.client.chat.completions.create(
        model="front", messages=[{"role": "user", "content": "Hi"}], max_tokens=16, temperature=0
    )
    assert said.choices[0].message.content == talked.outputs[0].text.removeprefix(" ")


def test_usage_and_the_accounts_count_what_it_made(front: Front, offline: LLM) -> None:
    tokenizer = offline.engine.tokenizer
    *chunks, last = _complete(front, LONG, stream=True, stream_options={"include_usage": True})
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage.prompt_tokens == len(tokenizer.encode(LONG, bos=True))
    assert last.usage.completion_tokens == len(tokenizer.encode(text)) > 0
    (account,) = front.door.accounts._accounts.values()
    eventually(lambda: account.running == 0)
    assert account._tokens[-1][1] == last.usage.total_tokens


def test_prompts_that_start_alike_go_to_one_and_when_it_is_killed_to_the_other(
    gguf: Path, tmp_path: Path, offline: LLM
) -> None:
    with _two(gguf, tmp_path) as servers, _before(servers, offline) as front:
        _check_affinity(front, servers)


def _check_affinity(front: Front, servers: list[LlamaCpp]) -> None:
    texts = [_complete(front, LONG + tail).choices[0].text for tail in ("", "# one\n", "# two\n", "")]
    assert texts[0] == texts[-1]
    eventually(lambda: sorted(server.answered for server in servers) == [0, 4])
    preferred = max(servers, key=lambda server: server.answered)
    other = min(servers, key=lambda server: server.answered)
    preferred.process.kill()
    preferred.process.wait()
    streamed = "".join(chunk.choices[0].text for chunk in _complete(front, LONG, stream=True))
    assert streamed == texts[0]
    eventually(lambda: other.answered == 1)
    assert [client.alive for client in front.upstreams.clients] == [server is other for server in servers]


@pytest.mark.parametrize(
    "options",
    [{"n": 2}, {"logprobs": 1}, {"logprobs": 1, "echo": True}, {"extra_body": {"guided_regex": "a+"}}],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_it_cannot_do_is_refused_by_name(front: Front, options: dict[str, Any], stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="llama-cpp-python server") as caught:
        _complete(front, "a", stream=stream, **options)
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param in ("n", "logprobs", "structured_outputs")
