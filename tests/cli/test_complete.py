"""coderv2 complete."""

from pathlib import Path

import pytest

from coderv2.engine.llm import LLM
from coderv2.engine.request import SamplingParams
from coderv2.text.tokenizer import EOS
from tests.cli.conftest import RunCommand

PROMPT = "def quick_sort(values):"


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path) -> str:
    llm = LLM(tiny_checkpoint, max_model_len=256, cache_tokens=4096)
    (output,) = llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=20), use_tqdm=False)
    return output.outputs[0].text


def test_it_prints_the_likeliest_completion_and_nothing_else(
    command: RunCommand, tiny_checkpoint: Path, expected: str
) -> None:
    outcome = command("complete", PROMPT, "-m", tiny_checkpoint, "--max-tokens", 20)
    assert (outcome.code, outcome.out) == (0, expected)


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_the_prompt_may_come_from_standard_input(
    command: RunCommand, tiny_checkpoint: Path, expected: str, arguments: list[str]
) -> None:
    outcome = command("complete", *arguments, "-m", tiny_checkpoint, "--max-tokens", 20, stdin=PROMPT)
    assert outcome.out == expected


def test_echo_prints_the_prompt_in_front(command: RunCommand, tiny_checkpoint: Path, expected: str) -> None:
    outcome = command("complete", PROMPT, "--echo", "-m", tiny_checkpoint, "--max-tokens", 20)
    assert outcome.out == PROMPT + expected


def test_a_stop_ends_it(command: RunCommand, tiny_checkpoint: Path, expected: str) -> None:
    stop = expected[3:5]
    arguments = ["complete", PROMPT, "-m", tiny_checkpoint, "--max-tokens", 20, "--stop", stop]
    assert command(*arguments, "--stop", "zzz").out == expected[: expected.index(stop)]


def test_a_seed_repeats_a_random_answer(command: RunCommand, tiny_checkpoint: Path) -> None:
    def sampled(seed: int) -> str:
        options = ["--temperature", 1, "--top-p", 0.9, "--top-k", 50, "--seed", seed, "--max-tokens", 20]
        return command("complete", PROMPT, "-m", tiny_checkpoint, *options).out

    assert sampled(1) == sampled(1) != sampled(2)


def test_markers_in_the_prompt_are_plain_text(command: RunCommand, tiny_checkpoint: Path) -> None:
    outcome = command("complete", EOS, "--echo", "-m", tiny_checkpoint, "--max-tokens", 1)
    assert (outcome.code, outcome.out[: len(EOS)]) == (0, EOS)


def test_input_that_is_no_text_is_one_line(command: RunCommand, tiny_checkpoint: Path) -> None:
    outcome = command("complete", "-m", tiny_checkpoint, stdin=b"abc\xff")
    assert (outcome.code, outcome.err) == (2, "coderv2: standard input: not UTF-8 text (byte 3)\n")


@pytest.mark.parametrize("name", ["complete", "chat"])
def test_a_pipe_that_brings_nothing_is_no_question(command: RunCommand, name: str) -> None:
    """`coderv2 chat </dev/null` answered something that nobody had asked."""
    outcome = command(name, stdin="")
    assert (outcome.code, outcome.out) == (2, "")
    assert "standard input is empty" in outcome.err
