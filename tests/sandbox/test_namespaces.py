"""A warden that dies under a program, or before one."""

import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderv2.errors import SandboxFailed
from coderv2.sandbox.namespaces import Namespaces
from coderv2.sandbox.run import Job
from tests.sandbox.drivers import opened


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    yield from opened(Namespaces)


def idle_pid(driver: Namespaces) -> int:
    (warden,) = driver._idle
    return warden._process.pid


def test_a_program_whose_warden_was_killed_runs_once_more(
    namespaces: Namespaces, caplog: pytest.LogCaptureFixture
) -> None:
    os.kill(idle_pid(namespaces), signal.SIGKILL)
    with caplog.at_level(logging.WARNING, "coderv2"):
        assert namespaces.run(Job(["echo", "well"])).stdout == b"well\n"
    assert "a warden died (status -9); its program is run once more" in caplog.text


def test_a_warden_killed_in_the_middle_of_a_program_is_replaced(namespaces: Namespaces) -> None:
    pid = idle_pid(namespaces)
    killer = threading.Timer(0.3, os.kill, [pid, signal.SIGKILL])
    killer.start()
    assert namespaces.run(Job(["sh", "-c", "sleep 0.8; echo well"])).stdout == b"well\n"
    killer.join()


def test_a_warden_that_can_make_no_boxes_any_more_is_replaced(
    namespaces: Namespaces, caplog: pytest.LogCaptureFixture
) -> None:
    """One whose limits a program had lowered was kept, and failed all programs that followed."""
    spoilt = idle_pid(namespaces)
    first = int(Path(f"/proc/{spoilt}/task/{spoilt}/children").read_text())
    resource.prlimit(first, resource.RLIMIT_FSIZE, (0, 0))
    with caplog.at_level(logging.WARNING, "coderv2"):
        assert namespaces.run(Job(["cat", "a"], files={"a": "well\n"})).stdout == b"well\n"
    assert "no box could be made" in caplog.text
    assert idle_pid(namespaces) != spoilt


def test_wardens_that_keep_dying_are_an_error(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(line: object, message: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("coderv2.sandbox.line.Line.send", dead)
    monkeypatch.setattr("coderv2.sandbox.line.Line.receive", _ends)
    with pytest.raises(SandboxFailed, match="a warden died"):
        namespaces.run(Job(["true"]))


def _ends(line: object) -> object:
    raise EOFError


def test_a_stopped_warden_goes_on_where_it_was(namespaces: Namespaces) -> None:
    pid = idle_pid(namespaces)
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, [pid, signal.SIGCONT]).start()
    start = time.monotonic()
    assert namespaces.run(Job(["echo", "well"])).stdout == b"well\n"
    assert time.monotonic() - start < 30
