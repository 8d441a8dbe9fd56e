"""X3: who gives way to whom."""

from typing import Any

import httpx

from coderv2.engine.worker import Worker
from coderv2.server.app import simple_app
from tests.engine.fakes import fake_engine
from tests.server.running import running

HOLE: dict[str, Any] = {"prompt": "a", "suffix": "b", "max_tokens": 5000, "temperature": 0}


def test_without_a_session_nobody_gives_way() -> None:
    engine = fake_engine()
    worker = Worker(engine)
    worker.start()
    with running(simple_app(worker, engine.tokenizer, "tiny")) as url:
        body = HOLE | {"max_tokens": 5}
        assert [httpx.post(f"{url}/v1/completions", json=body).status_code for _ in range(3)] == [200] * 3
    worker.stop()
