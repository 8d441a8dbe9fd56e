"""What the driver that bubblewrap builds the box for hides beside what `test_escapes` tries."""

import shutil
from collections.abc import Iterator

import pytest

from coderv2.errors import SandboxFailed
from coderv2.sandbox.bubblewrap import Bubblewrap
from coderv2.sandbox.run import Job, working


@pytest.fixture(scope="module")
def bubblewrap() -> Iterator[Bubblewrap]:
    if shutil.which("bwrap") is None:
        pytest.skip("no bwrap: install bubblewrap")
    driver = Bubblewrap()
    try:
        working(driver)
    except SandboxFailed as error:
        pytest.skip(str(error))
    yield driver
    driver.close()


def test_nothing_of_the_first_process_is_shown_whoever_the_caller_is(
    bubblewrap: Bubblewrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODERV2_API_KEY", "secret")
    outcome = bubblewrap.run(Job(["sh", "-c", "ls -A /proc/1; echo x > /proc/1/new || echo none"]))
    assert outcome.stdout == b"none\n"
    shown = bubblewrap.run(Job(["sh", "-c", "cat /proc/[0-9]*/environ"]))
    assert b"PATH" in shown.stdout
    assert b"secret" not in shown.stdout
