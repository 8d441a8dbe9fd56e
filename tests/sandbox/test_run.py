"""What a driver promises of an ordinary program."""

from collections.abc import Iterator

import pytest

from coderv2.errors import NoSandbox
from coderv2.sandbox.run import Job, Limits, Sandbox, best_sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    try:
        found = best_sandbox()
    except NoSandbox as error:
        pytest.skip(str(error))
    yield found
    found.close()


def test_files_input_output_and_status(sandbox: Sandbox) -> None:
    outcome = sandbox.run(
        Job(["sh", "-c", "cat a/b; cat; echo oops >&2; exit 3"], files={"a/b": "hello "}, stdin=b"world")
    )
    assert (outcome.status, outcome.code) == ("exited", 3)
    assert (outcome.stdout, outcome.stderr) == (b"hello world", b"oops\n")


def test_a_signal_is_told_apart_from_a_status(sandbox: Sandbox) -> None:
    outcome = sandbox.run(Job(["sh", "-c", "kill -SEGV $$"]))
    assert (outcome.status, outcome.code) == ("killed", -11)


def test_a_command_that_is_not_there_ends_like_in_a_shell(sandbox: Sandbox) -> None:
    assert sandbox.run(Job(["no-such-program"])).code == 127


def test_limits_end_a_program(sandbox: Sandbox) -> None:
    assert sandbox.run(Job(["sleep", "60"], limits=Limits(seconds=0.3))).status == "timeout"
    endless = sandbox.run(Job(["yes"], limits=Limits(output_bytes=1000)))
    assert endless.status == "output"
    assert len(endless.stdout) == 1000
