"""X3: a newer hole of a session takes the place of an older one that still waits."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from torch import Tensor

from coderv2.engine.worker import Worker
from coderv2.server.app import simple_app
from coderv2.server.generation import Generation
from tests.engine.fakes import FakeModel, fake_engine, one_peak
from tests.server.running import eventually, running

HOLE: dict[str, Any] = {"prompt": "a", "suffix": "b", "max_tokens": 100, "temperature": 0}


def test_x3_the_older_one_is_closed_and_gone_and_others_stay() -> None:
    """All places are taken by a long answer, so that holes wait."""
    engine = fake_engine(FakeModel(context=20_000), cache_tokens=50_000, max_running=1, max_batch_tokens=64)
    worker = Worker(engine)
    worker.start()
    replies: dict[str, httpx.Response] = {}
    with running(simple_app(worker, engine.tokenizer, "tiny")) as url:

        def ask(name: str, session: str) -> threading.Thread:
            def send() -> None:
                headers = {"x-session-id": session}
                replies[name] = httpx.post(f"{url}/v1/completions", json=HOLE, headers=headers, timeout=120)

            thread = threading.Thread(target=send)
            thread.start()
            return thread

        with httpx.stream(
            "POST", f"{url}/v1/completions", json={"prompt": "z", "max_tokens": 15_000, "stream": True}
        ) as long:
            chunks = long.iter_bytes(10)  # kept: an iterator that goes takes its connection along
            next(chunks)
            older, other = ask("older", "one"), ask("other", "two")
            eventually(lambda: worker.stats().waiting == 2)
            newer = ask("newer", "one")
            older.join(60)
            assert replies["older"].status_code == 499
            time.sleep(0.1)
            assert worker.stats().waiting == 2
            assert set(replies) == {"older"}
        for thread in (newer, other):
            thread.join(120)
        assert {replies[name].status_code for name in ("newer", "other")} == {200}
    worker.stop()
    engine.check()


def test_without_a_session_nobody_gives_way() -> None:
    engine = fake_engine()
    worker = Worker(engine)
    worker.start()
    with running(simple_app(worker, engine.tokenizer, "tiny")) as url:
        body = HOLE | {"max_tokens": 5}
        assert [httpx.post(f"{url}/v1/completions", json=body).status_code for _ in range(3)] == [200] * 3
    worker.stop()


def test_x3_it_is_gone_within_one_step_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of the model from the moment it must give way to the moment the engine has let go of it."""

    def slow(tokens: list[int]) -> Tensor:
        time.sleep(0.05)
        return one_peak(tokens)

    model = FakeModel(slow, context=20_000)
    engine = fake_engine(model, cache_tokens=50_000, max_running=1)
    passes: list[int] = []
    abandon, abort = Generation.abandon, engine.abort

    def noting_abandon(work: Generation, reason: Exception) -> None:
        passes.append(len(model.batches))
        abandon(work, reason)

    def noting_abort(request_id: str) -> None:
        passes.append(len(model.batches))
        abort(request_id)

    monkeypatch.setattr(Generation, "abandon", noting_abandon)
    monkeypatch.setattr(engine, "abort", noting_abort)
    worker = Worker(engine)
    worker.start()
    long = {"prompt": "z", "max_tokens": 15_000, "stream": True}
    with (
        running(simple_app(worker, engine.tokenizer, "tiny")) as url,
        httpx.Client(base_url=url, headers={"x-session-id": "s"}, timeout=120) as client,
        ThreadPoolExecutor(2) as pool,
        client.stream("POST", "/v1/completions", json=long) as first,
    ):
        chunks = first.iter_bytes(10)
        next(chunks)
        older = pool.submit(client.post, "/v1/completions", json=HOLE)
        eventually(lambda: worker.stats().waiting == 1)
        newer = pool.submit(client.post, "/v1/completions", json=HOLE | {"max_tokens": 1})
        assert older.result().status_code == 499
        first.close()
        newer.result()
    given_way, let_go = passes[:2]
    assert let_go - given_way <= 1
    worker.stop()
