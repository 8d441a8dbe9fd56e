"""coderv2 infill."""

from pathlib import Path

import pytest

from coderv2.engine.llm import LLM
from coderv2.engine.request import SamplingParams
from tests.cli.conftest import RunCommand

PREFIX, SUFFIX = "def add(a, b):\r\n    return ", "\r\n\r\nprint(add(1, 2))\r\n"


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path) -> str:
    llm = LLM(tiny_checkpoint, max_model_len=256, cache_tokens=4096)
    (output,) = llm.infill(PREFIX, SUFFIX, SamplingParams(temperature=0, max_tokens=9), use_tqdm=False)
    return output.outputs[0].text


def _write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


def test_the_hole_of_a_file_is_filled(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path, expected: str
) -> None:
    file = _write(tmp_path, "a.py", f"{PREFIX}<FILL>{SUFFIX}")
    outcome = command("infill", file, "-m", tiny_checkpoint, "--max-tokens", 9)
    assert (outcome.code, outcome.out) == (0, expected)


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_the_file_may_come_from_standard_input_with_its_line_ends(
    command: RunCommand, tiny_checkpoint: Path, expected: str, arguments: list[str]
) -> None:
    options = ["-m", tiny_checkpoint, "--max-tokens", 9, "--marker", "HERE", "--whole"]
    outcome = command("infill", *arguments, *options, stdin=f"{PREFIX}HERE{SUFFIX}")
    assert outcome.out == PREFIX + expected + SUFFIX


def test_prefix_and_suffix_may_be_files(
    command: RunCommand, tiny_checkpoint: Path, tmp_path: Path, expected: str
) -> None:
    files = ["--prefix-file", _write(tmp_path, "p", PREFIX), "--suffix-file", _write(tmp_path, "s", SUFFIX)]
    assert command("infill", *files, "-m", tiny_checkpoint, "--max-tokens", 9).out == expected


@pytest.mark.parametrize(("text", "count"), [("no hole", 0), ("<FILL> and <FILL>", 2)])
def test_a_file_has_exactly_one_hole(command: RunCommand, text: str, count: int) -> None:
    outcome = command("infill", stdin=text)
    assert outcome.code == 2
    assert f"must occur once, not {count} times" in outcome.err


def test_standard_input_is_not_both_files(command: RunCommand) -> None:
    """What stands after the hole was empty, unsaid."""
    outcome = command("infill", "--prefix-file", "-", "--suffix-file", "-", stdin="def f(")
    assert outcome.code == 2
    assert "one of the two files" in outcome.err


def test_what_is_wrong_with_the_hole_is_told_with_the_file_and_the_way_out(
    command: RunCommand, tmp_path: Path
) -> None:
    """Of several files nobody could tell which, nor what to do."""
    outcome = command("infill", _write(tmp_path, "empty.py", ""))
    assert f"{tmp_path / 'empty.py'}: the hole marker" in outcome.err
    assert "write <FILL> where text is missing" in outcome.err
    assert "standard input: the hole marker" in command("infill", stdin="").err
