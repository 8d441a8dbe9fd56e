"""The bundled model behind a port, and programs of others that are not in our own environment.

`make clients` installs what pip has, `.ci/run` what Debian has; a test whose program is missing says so and is skipped.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coderv2 import paths
from coderv2.engine.llm import LLM
from coderv2.engine.worker import Worker
from coderv2.server.app import simple_app
from tests.server.conftest import Served
from tests.server.running import running

ROOT = Path(__file__).parents[3]
Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def bundled() -> Iterator[Served]:
    offline = LLM(paths.bundled_model())
    worker = Worker(LLM(paths.bundled_model()).engine)
    worker.start()
    with running(simple_app(worker, offline.engine.tokenizer, "coderv2-bundled")) as url:
        yield Served(url, offline, worker)
    worker.stop()


def found(name: str) -> str:
    """The program's path, or the test is skipped."""
    for folder in (".venv-clients", ".venv-aider"):
        path = ROOT / folder / "bin" / name
        if path.exists():
            return str(path)
    path = shutil.which(name)
    if path is None or name in ("python", "llm", "aider"):
        pytest.skip(f"{name} is not installed: make clients, or apt-get install {name}")
    return path


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """`program("llm", "models", env={…})` runs in an empty folder, with nothing of this machine's settings."""

    def run(
        name: str, *arguments: str, env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        settings = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **(env or {})}
        return subprocess.run(
            [found(name), *arguments],
            cwd=tmp_path,
            env=settings,
            text=True,
            capture_output=True,
            timeout=540,
            check=False,
        )

    return run
