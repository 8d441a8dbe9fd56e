"""Whatever ends the caller, or its wait, ends its programs and wardens too."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from coderv2.errors import SandboxFailed
from coderv2.sandbox.judge import Judge, Program
from coderv2.sandbox.run import DRIVERS, Job, Limits, Sandbox
from coderv2.sandbox.unprotected import Unprotected
from tests.sandbox.drivers import opened

CALLER = """
import signal
import sys
from coderv2.sandbox.run import DRIVERS, Job, Limits
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background has it ignored
sandbox = DRIVERS[sys.argv[1]]()
print("up", flush=True)
sandbox.run(Job(["sleep", sys.argv[2]], limits=Limits(seconds=60.0)))
"""
LONG = Limits(seconds=60.0)
MAKERS: dict[str, Callable[[], Sandbox]] = {**DRIVERS, "unprotected": Unprotected}


@pytest.fixture(params=MAKERS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    yield from opened(MAKERS[request.param])


def command_of(pid: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def running(mark: str) -> list[str]:
    """The commands of all processes of this machine with that word in them."""
    pids = [file.name for file in Path("/proc").glob("[0-9]*") if file.name != str(os.getpid())]
    return [command for pid in pids if mark in (command := command_of(pid))]


def children(pid: int) -> list[int]:
    """Of a process, and theirs."""
    with suppress(OSError):
        words = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
        found = list(map(int, " ".join(words).split()))
        return found + [below for child in found for below in children(child)]
    return []


def soon(true: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def mark(number: int) -> str:
    """Seconds that only programs of this test sleep."""
    return f"{os.getpid()}.{number}"


@pytest.mark.parametrize("cause", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_programs_and_wardens_of_a_caller_that_is_killed_end_with_it(
    sandbox: Sandbox, cause: signal.Signals
) -> None:
    name = sandbox.name
    if name not in DRIVERS:
        pytest.skip("unprotected programs of a killed caller go on until they end")
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, name, mark(11)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with caller:
        assert soon(lambda: f"sleep {mark(11)} " in running(mark(11)))
        begun = children(caller.pid)
        caller.send_signal(cause)
        assert caller.wait(20) != 0
    assert soon(lambda: not running(mark(11)), 5.0)
    assert soon(lambda: not [pid for pid in begun if command_of(str(pid))], 5.0)


# It may come between a file's opening and whoever closes it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_an_interrupt_ends_the_program_that_is_waited_for(sandbox: Sandbox) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)

    def interrupt_it() -> None:
        assert soon(lambda: f"sleep {mark(22)} " in running(mark(22)))
        time.sleep(0.3)  # while it is waited for, and not within the call that starts it
        os.kill(os.getpid(), signal.SIGALRM)

    alarm = threading.Thread(target=interrupt_it)

    try:
        alarm.start()
        with pytest.raises(KeyboardInterrupt):
            sandbox.run(Job(["sleep", mark(22)], limits=LONG))
        alarm.join()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert soon(lambda: not running(mark(22)), 5.0)
    assert sandbox.run(Job(["echo", "well"])).stdout == b"well\n"


def test_close_ends_programs_that_other_threads_wait_for(sandbox: Sandbox) -> None:
    failures: list[SandboxFailed] = []

    def wait() -> None:
        with pytest.raises(SandboxFailed, match="closed") as failed:
            sandbox.run(Job(["sleep", mark(33)], limits=LONG))
        failures.append(failed.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert soon(lambda: f"sleep {mark(33)} " in running(mark(33)))
    sandbox.close()
    waiting.join(10.0)
    assert len(failures) == 1
    assert soon(lambda: not running(mark(33)), 5.0)
    with pytest.raises(SandboxFailed, match="closed"):
        sandbox.run(Job(["true"]))


def test_a_judge_that_is_interrupted_waits_for_nothing_that_runs_or_is_to_run(sandbox: Sandbox) -> None:
    """`coderv2 eval` went on for half a minute after Ctrl-C."""
    programs = [Program("python", "import time; time.sleep(50)", limits=LONG) for _ in range(9)]
    judge = Judge(sandbox, workers=2)
    waiting = threading.Thread(target=lambda: _suppressed(judge, programs))
    waiting.start()
    time.sleep(1.0)
    begin = time.monotonic()
    judge.__exit__(KeyboardInterrupt)
    waiting.join(10.0)
    assert not waiting.is_alive()
    assert time.monotonic() - begin < 10


def _suppressed(judge: Judge, programs: list[Program]) -> None:
    with suppress(BaseException):  # cancelled
        list(judge.judge(programs))
