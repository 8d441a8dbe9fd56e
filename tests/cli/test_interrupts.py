"""Ctrl-C while the program starts."""

import subprocess
import sys
from pathlib import Path

_SWALLOWS = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
    os.getpid()
except KeyboardInterrupt:
    pass
"""


def _run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    (folder / "swallows.py").write_text(_SWALLOWS, "utf-8")
    # Tests in a shell's background have it ignored, and so would their children.
    start = (
        f"import signal, sys; sys.path.insert(0, {str(folder)!r})\nfrom coderv2.cli import interrupts\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    )
    return subprocess.run([sys.executable, "-c", start + program], capture_output=True, text=True)


def test_an_import_that_catches_it_does_not_keep_the_program_running(tmp_path: Path) -> None:
    outcome = _run(tmp_path, "interrupts.end_imports()\nimport swallows\nprint('went on')")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (130, "", "")


def test_beside_imports_it_is_as_usual(tmp_path: Path) -> None:
    outcome = _run(tmp_path, f"interrupts.end_imports()\n{_SWALLOWS}\nprint('went on')")
    assert (outcome.returncode, outcome.stdout) == (0, "went on\n")


def test_asyncio_finds_its_own(tmp_path: Path) -> None:
    program = "import signal\ninterrupts.end_imports()\ninterrupts.as_usual()\n"
    outcome = _run(tmp_path, program + "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)")
    assert outcome.stdout == "True\n"
