"""Programs that look for weak places: schemathesis over our OpenAPI, slowhttptest, wrk."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.outside.conftest import Program

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path) -> Iterator[str]:
    """`coderv2 serve` as a program of its own."""
    arguments = ["serve", str(tiny_checkpoint), "--port", "0", "--name", "tiny", "--max-model-len", "256"]
    process = subprocess.Popen(
        [sys.executable, "-m", "coderv2", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"CODERV2_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    url = ""
    while not url:
        line = process.stdout.readline()
        assert line, "the server ended"
        url = line.partition("base URL ")[2].partition("/v1")[0]
    yield url
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


def _well(url: str) -> None:
    reply = httpx.post(f"{url}/v1/completions", json={"prompt": "a", "max_tokens": 3}, timeout=60)
    assert reply.status_code == 200, reply.text


def test_schemathesis_finds_no_5xx(server: str, program: Program, tmp_path: Path) -> None:
    """At least a thousand cases, well-formed and not."""
    (tmp_path / "openapi.json").write_text(httpx.get(f"{server}/openapi.json").text)
    done = program(
        "schemathesis", "run", "openapi.json", "--url", server, "--checks", "not_a_server_error", "--mode", "all",
        "--max-examples", "40", "--phases", "examples,coverage,fuzzing", "--request-timeout", "60",
        "--report", "ndjson", "--report-ndjson-path", "cases.ndjson", "--seed", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert (tmp_path / "cases.ndjson").read_text().count('"ScenarioFinished"') > 0
    assert _cases(done.stdout) >= 1000
    _well(server)


def _cases(report: str) -> int:
    """From its last lines: `N generated, …`."""
    line = [line for line in report.splitlines() if "generated" in line][-1]
    return int(line.strip().split()[0])


@pytest.mark.parametrize("attack", ["-H", "-B", "-X"], ids=["slow headers", "slow body", "slow reading"])
def test_slowhttptest_does_not_stop_the_service(server: str, program: Program, attack: str) -> None:
    done = program(
        "slowhttptest",
        attack,
        "-c",
        "200",
        "-i",
        "5",
        "-r",
        "100",
        "-l",
        "25",
        "-p",
        "10",
        "-u",
        f"{server}/v1/models",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    _well(server)


def test_wrk_gets_its_answers(server: str, program: Program) -> None:
    done = program("wrk", "-t2", "-c32", "-d5s", f"{server}/v1/models")
    assert done.returncode == 0, done.stderr
    assert "Non-2xx" not in done.stdout
    assert "Socket errors" not in done.stdout
    _well(server)


def test_memory_is_flat_after_many_streams_that_were_left(server: str) -> None:
    body = {"prompt": "a", "max_tokens": 200, "stream": True}
    for _ in range(200):
        with httpx.stream("POST", f"{server}/v1/completions", json=body, timeout=60) as reply:
            next(reply.iter_bytes(10))
    time.sleep(1)
    page = httpx.get(f"{server}/metrics").text
    assert "coderv2_open_requests 0.0" in page
    assert 'coderv2_engine_pages_used{engine="chat"} 0.0' in page
    assert json.loads(httpx.get(f"{server}/ready").text) == {"status": "ready"}
