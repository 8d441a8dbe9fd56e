"""The processes of a namespace, as its first one sees them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coderv2.sandbox.offspring import Offspring

_FIRST = """
import os, signal, subprocess, time
from coderv2.sandbox import offspring
all_of_them = offspring.Offspring()
"""


def first(code: str) -> list[str]:
    """What the first process of a new namespace of processes prints."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.getuid() != 0:
        unshare += ["--user", "--map-current-user"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespace of processes can be made here: {error}")
    command = [*unshare, sys.executable, "-c", _FIRST + code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_anybody_else_is_refused() -> None:
    """Whose `kill(-1)` would end every process of its user."""
    with pytest.raises(AssertionError, match="first process"):
        Offspring()


def test_orphans_and_those_that_ignore_signals_are_ended_with_the_rest() -> None:
    code = """
script = "trap '' TERM HUP INT; (setsid sleep 1000 &) ; (sleep 1000 &) ; echo begun; sleep 1000"
child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE)
child.stdout.readline()
while len(list(offspring.living())) < 4:
    time.sleep(0.01)
all_of_them.end()
print(list(offspring.living()), all_of_them.exit_code(child.pid))
"""
    assert first(code) == ["[] -9"]


def test_the_dead_are_buried_and_their_status_kept() -> None:
    code = """
pids = []
for status in (0, 3):
    pids.append(os.fork())
    if pids[-1] == 0:
        os._exit(status)
pids.append(os.fork())
if pids[-1] == 0:
    os.abort()
while list(offspring.living()):
    all_of_them.reap()
print(*map(all_of_them.exit_code, pids))
all_of_them.reap()
all_of_them.end()
print("nobody left, and no error")
"""
    assert first(code) == ["0 3 -6", "nobody left, and no error"]
