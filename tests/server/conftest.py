"""A real engine behind a real port."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from coderv2.engine.llm import LLM
from coderv2.engine.worker import Worker
from coderv2.server.app import simple_app
from tests.server.running import running


@dataclass
class Served:
    """A tiny random model behind a port."""

    url: str
    offline: LLM
    """Over an engine of its own with the same weights."""
    worker: Worker

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="EMPTY", max_retries=0, **options)


@pytest.fixture(scope="module")
def served(tiny_checkpoint: Path) -> Iterator[Served]:
    engine = LLM(tiny_checkpoint, max_model_len=256, cache_tokens=4096).engine
    offline = LLM(tiny_checkpoint, max_model_len=256, cache_tokens=4096)
    worker = Worker(engine)
    worker.start()
    with running(simple_app(worker, engine.tokenizer, "tiny")) as url:
        yield Served(url, offline, worker)
    worker.stop()
