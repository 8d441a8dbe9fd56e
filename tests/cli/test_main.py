"""The command line itself: speed, errors, exit codes."""

import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

import coderv2
from coderv2.cli import main
from coderv2.cli.main import COMMANDS, run
from coderv2.errors import BadCheckpoint, CoderV2Error, InvalidValue, QueueFull
from tests.cli.conftest import RunCommand

HEAVY = (
    "torch",
    "fastapi",
    "pydantic",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "uvicorn",
    "tqdm",
)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([c, "--help"] for c in COMMANDS)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom coderv2.cli.main import run\n"
        f"assert run({arguments!r}) == 0\n"
        f"print('loaded:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.splitlines()[-1] == "loaded: []"


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    def seconds() -> float:
        """Processor time, so that a busy machine makes no difference."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.check_output([sys.executable, "-m", "coderv2", "--help"])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.3


def test_alone_it_shows_the_commands(command: RunCommand) -> None:
    outcome = command()
    assert outcome.code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in outcome.out


def test_version(command: RunCommand) -> None:
    assert command("--version").out == f"coderv2 {coderv2.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["complete", "x", "--nonsense"],
        ["complete", "x", "y"],
        ["complete", "x", "--max-tokens", "many"],
        ["complete", "x", "--temperature", "-1"],
        ["complete", "x", "--max-tokens", "0"],
        ["complete", "x", "--model", "/no/such/folder"],
        ["complete"],
        ["infill"],
        ["infill", "/no/such/file"],
        ["infill", "file", "--prefix-file", "file"],
        ["infill", "--prefix-file", "file"],
        ["infill", "--prefix-file", "file", "--suffix-file", "file", "--marker", "<>"],
        ["key", ""],
        ["serve", "a", "-m", "b"],
        ["serve", "--port", "70000"],
        ["serve", "--host", "no-such-host.invalid"],
        ["convert", "bundled"],
        ["convert", "/no/such/folder", "out"],
        ["convert", "bundled", "out", "--max-shard-size", "big"],
        ["convert", "bundled", "out", "--dtype", "float8"],
    ],
)
def test_a_wrong_argument_is_one_line_and_code_2(command: RunCommand, arguments: list[str]) -> None:
    outcome = command(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("coderv2: ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InvalidValue("a\nb"), 2, "coderv2: a b\n"),
        (BadCheckpoint("damaged"), 2, "coderv2: damaged\n"),
        (QueueFull("full"), 1, "coderv2: full\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x"),
            2,
            "coderv2: x: No such file or directory\n",
        ),
        (OSError(28, "No space left on device"), 1, "coderv2: No space left on device\n"),
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_whose_fault_it_was_shows_in_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: CoderV2Error,
    code: int,
    line: str,
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(main, "coderv2", failing)
    assert run([]) == code
    assert capsys.readouterr().err == line


def test_a_reader_that_goes_away_ends_it_quietly(tiny_checkpoint: Path) -> None:
    arguments = ["complete", "x", "-m", str(tiny_checkpoint), "--max-tokens", "100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "coderv2", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 1
    assert "Error" not in error


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        outcome = subprocess.run(
            [sys.executable, "-m", "coderv2", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert outcome.returncode == 1
    assert outcome.stderr == "coderv2: No space left on device\n"


def test_closed_streams_are_as_empty_ones() -> None:
    program = f"{sys.executable} -m coderv2 infill - <&- >&-"
    outcome = subprocess.run(["sh", "-c", program], stderr=subprocess.PIPE, text=True)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("coderv2: ")
    assert "<FILL>" in outcome.stderr
