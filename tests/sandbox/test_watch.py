"""What the watch counts as a program's time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from coderv2.sandbox import watch
from coderv2.sandbox.limits import Limits
from coderv2.sandbox.watch import Clock, watch_process


def test_a_standstill_of_the_watch_counts_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.5, 60.5, 61.0])
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: next(times)))
    clock = Clock()
    assert [clock.seconds() for _ in range(3)] == [0.5, 1.5, 2.0]


def test_a_program_that_was_stopped_with_its_watch_is_not_late() -> None:
    """The whole group stands still for longer than the limit, as in a paused container."""
    code = (
        "import subprocess, sys\nfrom coderv2.sandbox.limits import Limits\n"
        "from coderv2.sandbox.watch import watch_process\n"
        "pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "program = subprocess.Popen(['sh', '-c', 'echo on; sleep 1; echo done'], **pipes)\n"
        "print('begun', flush=True)\n"
        "with program:\n    seen = watch_process(program, program.kill, Limits(seconds=2.5))\n"
        "print(seen.limit, seen.stdout)\n"
    )
    root = Path(__file__).parents[2]
    watching = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root, start_new_session=True
    )
    assert watching.stdout
    assert watching.stdout.readline() == "begun\n"
    os.killpg(watching.pid, signal.SIGSTOP)
    time.sleep(3.0)
    os.killpg(watching.pid, signal.SIGCONT)
    assert watching.communicate()[0] == "None b'on\\ndone\\n'\n"


def test_a_program_that_sleeps_is_late() -> None:
    program = subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with program:
        seen = watch_process(program, program.kill, Limits(seconds=0.2))
    assert seen.limit == "timeout"
    assert 0.2 <= seen.seconds < 60


def test_what_a_program_writes_is_gathered_up_to_its_limit() -> None:
    program = subprocess.Popen(["yes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with program:
        seen = watch_process(program, program.kill, Limits(output_bytes=1000))
    assert (seen.limit, len(seen.stdout)) == ("output", 1000)
