"""Programs that are called: what is left of them."""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from coderv2.errors import ServiceError
from coderv2.evaluation.processes import Ended, call


def shell(script: str, folder: Path, seconds: float = 20.0, **more: object) -> Ended:
    return asyncio.run(call("sh", "-c", script, folder=folder, seconds=seconds, **more))  # type: ignore[arg-type]


def ended(file: Path) -> bool:
    """Whether the process is gone whose number stands in the file."""
    pid = int(file.read_text())
    for _ in range(100):
        with suppress(FileNotFoundError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.02)
                continue
        return True
    return False


def test_its_words_and_its_code_are_kept(tmp_path: Path) -> None:
    assert shell("echo out; echo err >&2; pwd; exit 3", tmp_path) == Ended(3, f"out\nerr\n{tmp_path}\n")


def test_a_time_limit_also_ends_what_the_program_started(tmp_path: Path) -> None:
    """The child's child held the pipe, and the call hung as long as it ran."""
    begin = time.monotonic()
    assert shell("sleep 47 & echo $! > pid; wait", tmp_path, seconds=0.3).code == 124
    assert time.monotonic() - begin < 10
    assert ended(tmp_path / "pid")


def test_what_a_program_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    begin = time.monotonic()
    assert shell("sleep 47 & echo $! > pid; echo done", tmp_path) == Ended(0, "done\n")
    assert time.monotonic() - begin < 10
    assert ended(tmp_path / "pid")


def test_a_call_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(
            call("sh", "-c", "sleep 47 & echo $! > new; mv new pid; wait", folder=tmp_path, seconds=60)
        )
        while not (tmp_path / "pid").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert ended(tmp_path / "pid")


def test_it_finds_the_environment_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    path = os.environ["PATH"]
    assert shell('echo "$SECRET"', tmp_path).output == "1\n"
    assert shell('echo "$SECRET"', tmp_path, environment={"PATH": path}).output == "\n"


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no-such-program cannot be run"):
        asyncio.run(call("no-such-program", folder=tmp_path, seconds=1))
