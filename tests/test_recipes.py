import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from coderv2.data import exercises, filters
from coderv2.data.document import Document
from coderv2.evaluation import suite
from coderv2.evaluation.tasks import TASKS
from coderv2.model import weights
from coderv2.model.transformer import Transformer
from coderv2.text.tokenizer import Tokenizer
from recipes import bundled, card, recall
from tests.data.fakes import document
from tests.tiny import tiny_config
from tests.tiny_tokenizer import tiny_tokenizer

CLICK = "def greet(name):\n    return f'Hello, {name}!'\n\n\n" * 20
OTHER = "".join(f"def add_{n}(first, second):\n    return first + second + {n}\n\n\n" for n in range(30))


def two_sources() -> Iterator[Document]:
    yield document(OTHER, name="numpy/a.py")
    yield document(CLICK, name="click/a.py")
    yield document(OTHER, name="mpmath/tests/a.py")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe with two files, a small vocabulary and a tiny model."""
    monkeypatch.setattr(bundled, "sources", two_sources)
    monkeypatch.setattr(bundled, "VOCABULARY", 600)
    for name in ("EXERCISE_COPIES", "TALK_COPIES", "REPEATED_COPIES", "HOLED_COPIES", "LINES", "COMPLETIONS"):
        monkeypatch.setattr(bundled, name, 3 if name == "TALK_COPIES" else 1)
    monkeypatch.setattr(bundled, "ROLE_WORDS", [])
    monkeypatch.setattr(bundled, "model_config", lambda tokenizer: tiny_config())
    monkeypatch.setattr(recall.exercises, "bank", lambda bank=exercises.bank: bank()[:2])


_GSM8K = {
    "title": "GSM8K", "metric": "accuracy", "prompt": "chat", "value": 0.125, "low": 0.05, "high": 0.3, "n": 40,
    "truncated": 3,
}  # fmt: skip


@pytest.mark.usefixtures("small")
def test_the_recipe_makes_a_measured_checkpoint_in_two_steps(tmp_path: Path) -> None:
    bundled.data(tmp_path)
    model = bundled.pretrain(tmp_path, 1.0, ["steps=2", "row_tokens=256", "rows_per_step=1"])
    bundled.sft(model, tmp_path, 1.0, ["steps=2", "row_tokens=512", "rows_per_step=1"])
    bundled.holes(model, tmp_path, 0.0)
    folder = bundled.package(model, tmp_path)
    bundled.measure(tmp_path)
    bundled.write_card(tmp_path)
    assert Tokenizer.from_folder(folder).vocab_size == 600
    assert weights.load(folder).config.vocab_size == 600
    before = (folder / "MODEL_CARD.md").read_text()
    assert "bits per byte, click" in before
    assert "No benchmarks were run" in before
    suite.write(tmp_path / "benchmarks", {"gsm8k": _GSM8K, "mmlu": suite.not_run(TASKS["mmlu"], "no data")})
    done = CliRunner().invoke(bundled.main, ["--out", str(tmp_path), "--card"])
    assert done.exit_code == 0, done.output
    after = (folder / "MODEL_CARD.md").read_text()
    assert "| GSM8K | accuracy | chat | 12.5 | 5.0 to 30.0 | 40 | 3 |" in after
    assert "for want of data, a tool or a judge: MMLU." in after
    assert before.partition("Benchmarks (")[0] == after.partition("Benchmarks (")[0]
    used = {entry["source"]: entry["held_out"] for entry in json.loads((folder / "ledger.json").read_text())}
    assert used == {"numpy": False, "click": True, "exercises": False}


@pytest.mark.usefixtures("small")
def test_the_shipped_model_is_measured_without_training(tmp_path: Path) -> None:
    """Nothing measured it again, so its card stated a figure of an older rule."""
    done = CliRunner().invoke(bundled.main, ["--shipped", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["parameters"] == 10_173_504
    assert set(figures["bits"]) == {"click"}
    assert 0 <= figures["parse"] <= 1
    assert figures["not_as_in_the_ledger"] == ["click"]
    assert not (tmp_path / "out").exists()


def test_the_command_explains_itself() -> None:
    shown = CliRunner().invoke(bundled.main, ["--help"])
    assert shown.exit_code == 0
    assert "--minutes" in shown.output


def test_a_negative_length_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    done = CliRunner().invoke(bundled.main, ["--out", str(tmp_path), "--holes-minutes", "-1"])
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--set", "optim.nope=1"], "nope is not a setting"), (["--card"], "measured.json")],
)
def test_what_cannot_be_is_told_before_minutes_go_into_data(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    """A mistyped setting was found after the data was made, and both were tracebacks."""
    done = CliRunner().invoke(bundled.main, ["--out", str(tmp_path), *arguments])
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert said in done.output


def test_a_file_that_holds_a_benchmarks_problem_is_excluded() -> None:
    files = [document(name=f"math-verify/math_verify/{name}.py") for name in ("few_shots", "grader")]
    assert [item.dropped for item in filters.outside(*bundled.EXCLUDED)(files)] == ["excluded path", None]


def test_the_bundled_shape_fits_its_size_limit() -> None:
    with torch.device("meta"):
        model = Transformer(bundled.model_config(tiny_tokenizer()))
    size = 2 * sum(weight.numel() for weight in model.parameters())
    assert size < 20_500_000  # the tokenizer and the ledger need the rest of 20 MiB
    assert card.active_parameters(model) < 7_000_000


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        ("Here:\n\n```python\ndef add(a, b):\n    return a + b\n```", True),
        ("```python\ndef add(a, b):\n    return a - b\n```", False),
        ("```python\nwhile True:\n    pass\n```", False),
        ("def add(a, b):\n    return a + b\n", False),
    ],
)
def test_an_answer_passes_when_its_program_does(
    answer: str, good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall, "SECONDS", 2)
    exercise = next(exercise for exercise in exercises.bank() if exercise.name == "add")
    assert recall.passes(exercise, answer) is good
