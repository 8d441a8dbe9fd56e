"""`coderv2 eval`, as a user gives it."""

import asyncio
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from coderv2.cli.eval import _Bench
from coderv2.errors import NoSandbox
from coderv2.evaluation.run import Settings
from coderv2.sandbox.judge import Program
from coderv2.sandbox.limits import Limits
from tests.cli.conftest import RunCommand
from tests.evaluation.fakes import data_with
from tests.evaluation.tasks import invented


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return invented.data(tmp_path_factory.mktemp("data")).folder


def test_answers_are_judged_without_a_model(data: Path, tmp_path: Path, command: RunCommand) -> None:
    out = tmp_path / "out"
    done = command("eval", "gsm8k", "triviaqa", "--answers", "canonical", "--data", data, "--out", out)
    assert done.code == 0, done.err
    assert "gsm8k     accuracy 100.0 % ± 0.0 %" in done.out
    summary = json.loads((out / "summary.json").read_text())
    assert {name: figures["value"] for name, figures in summary.items()} == {"gsm8k": 1.0, "triviaqa": 1.0}
    again = command("eval", "run", "gsm8k", "--answers", "empty", "--data", data, "--out", out)
    assert again.code != 0
    assert "holds a run with model 'canonical answers'" in again.err


def test_report_and_diff_of_two_runs(data: Path, tmp_path: Path, command: RunCommand) -> None:
    for answers in ("canonical", "empty"):
        command("eval", "gsm8k", "--answers", answers, "--data", data, "--out", tmp_path / answers)
    told = command("eval", "diff", tmp_path / "canonical", tmp_path / "empty").out
    assert told.startswith("gsm8k: 100.0 % → 0.0 % on")
    assert "  - " in told
    assert command("eval", "report", tmp_path / "empty").out.splitlines()[0] == str(
        tmp_path / "empty/report.md"
    )


def test_ratings_are_told_as_points_and_never_in_percent(tmp_path: Path, command: RunCommand) -> None:
    """7.81 ± 0.15 was told as 7.81 ± 15.0 %."""
    for name, value in (("a", 0.5), ("b", 7.5)):
        verdict = {"value": value, "reason": "rated", "others": {}, "kept": {}}
        sample = {"problem": "81", "sample": 0, "group": "", "finish_reason": "stop", "verdict": verdict}
        data_with(
            tmp_path / name,
            {"mt-bench.jsonl": [{"coderv2": "eval 1"}, sample], "summary.json": '{"mt-bench": {}}'},
        )
    told = command("eval", "diff", tmp_path / "a", tmp_path / "b").out
    assert told.startswith("mt-bench: 0.50 → 7.50 on 1 problem; 1 better")


def test_the_needles_grid_is_as_asked_and_its_report_has_a_table(tmp_path: Path, command: RunCommand) -> None:
    words = ["eval", "needle", "--answers", "canonical", "--depths", "0,100", "--out", tmp_path]
    assert "found 100.0 % ± 0.0 % (2 problems)" in command(*words, "--lengths", "1000").out
    assert "(4 problems)" in command(*words, "--lengths", "2000,1000").out
    command("eval", "report", tmp_path)
    table = "length,depth,found,samples\n1000,0,1,1\n1000,100,1,1\n2000,0,1,1\n2000,100,1,1\n"
    assert (tmp_path / "needle.csv").read_text() == table


def test_a_file_of_answers_must_answer_every_problem(data: Path, tmp_path: Path, command: RunCommand) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text('{"task_id": "unknown", "reply": "4"}\n')
    done = command("eval", "gsm8k", "--answers", file, "--data", data, "--out", tmp_path / "out")
    assert done.code != 0
    assert "has no reply to" in done.err
    file.write_text("{damaged\n")
    done = command("eval", "gsm8k", "--answers", file, "--data", data, "--out", tmp_path / "out")
    assert f"{file}:1: damaged, not JSON" in done.err


def test_what_a_task_lacks_is_said_before_anything_runs(
    data: Path, tmp_path: Path, command: RunCommand
) -> None:
    out = tmp_path / "out"
    done = command("eval", "gsm8k", "mt-bench", "--answers", "empty", "--data", data, "--out", out)
    assert done.code != 0
    assert "cannot run mt-bench without a judging model: name one with --judge URL" in done.err
    assert not out.exists()


def test_all_lists_what_does_not_go_with_the_options_and_what_has_no_solutions(
    data: Path, tmp_path: Path, command: RunCommand
) -> None:
    """It ended at the first of them: `Aider has no base prompt`, and KeyError for the canonical answers of others."""
    folder = tmp_path / "data"
    for kept in ("gsm8k", "aider-exercism-python"):
        shutil.copytree(data / kept, folder / kept)
    row = {"task_id": "sh/0", "prompt": "f() {\n", "test": "}", "stop_tokens": []}
    data_with(folder, {"humaneval-multilingual/humaneval-sh.jsonl": [row]})
    words = [
        "eval",
        "all",
        "--answers",
        "canonical",
        "--prompt",
        "base",
        "--data",
        folder,
        "--out",
        tmp_path / "out",
    ]
    done = command(*words, "--lengths", "1000", "--depths", "0")
    assert done.code == 0, done.err
    said = {line.split()[0]: line for line in done.out.splitlines()}
    assert "accuracy 100.0 %" in said["gsm8k"]
    assert "not run: a base prompt, which it has not" in said["aider"]
    assert "not run: its data brings no solution of sh/0" in said["humaneval-sh"]


def test_defects4j_runs_only_unprotected(
    tmp_path: Path, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ran what the model wrote with the user's rights, unasked."""
    (tmp_path / "defects4j").write_text("#!/bin/sh\necho no histories; exit 1\n")
    (tmp_path / "defects4j").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    archive = invented.archive({"Lang/patches/1.src.patch": "+++ b/A.java\n@@ -1 +1 @@\n-1\n+2\n"})
    (tmp_path / "data" / "defects4j").mkdir(parents=True)
    (tmp_path / "data" / "defects4j" / "defects4j-metadata.tar.gz").write_bytes(archive)
    words = [
        "eval",
        "defects4j",
        "--answers",
        "empty",
        "--data",
        tmp_path / "data",
        "--out",
        tmp_path / "out",
    ]
    assert "--unprotected" in command(*words).err
    assert "no histories" in command(*words, "--unprotected").err


def test_list_names_every_task_and_what_it_needs(data: Path, tmp_path: Path, command: RunCommand) -> None:
    lines = command("eval", "list", "--data", data).out.splitlines()
    assert any(line.startswith("gsm8k ") and line.endswith("GSM8K (accuracy): ready") for line in lines)
    assert any(line.startswith("mt-bench ") and "--judge" in line for line in lines)
    missing = command("eval", "list", "--data", tmp_path).out
    assert f"{tmp_path}/gsm8k" in missing


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["humaneval-perl"], "no task 'humaneval-perl'"),
        (["gsm8k", "--answers", "empty", "--endpoint", "http://x"], "neither -m nor --endpoint"),
        (["gsm8k", "--endpoint", "localhost"], "--endpoint must be a URL"),
        (["mt-bench", "--answers", "empty", "--judge", "foo"], "--judge must be a URL"),
        (["gsm8k", "--answers", "empty", "--judge", "http://x"], "none of them is run"),
        (["mt-bench", "--answers", "empty", "--judge-model", "x"], "--judge-model goes with --judge"),
        (["gsm8k", "--answers", "empty", "--data", "/nowhere"], "no such folder"),
        (["gsm8k", "--answers", "empty", "--limit", "0"], "limit must be at least 1"),
        (["gsm8k", "--tokenizer", "nope"], "--tokenizer goes with --endpoint or --answers"),
        (["gsm8k", "--answers", "empty", "--dtype", "float32"], "--dtype is of a model that runs here"),
        (["gsm8k", "--answers", "empty", "--temperature", "-1"], "temperature must be at least 0"),
        (["gsm8k", "--answers", "empty", "--top-p", "0"], "top_p must be above 0"),
        (["report", "/nowhere"], "holds no summary.json"),
        (["needle", "--lengths", "1K"], "--lengths 1K: numbers with commas between them"),
        (["needle", "--depths", "50,110"], "depths are from 0 to 100"),
        (["gsm8k", "--depths", "50"], "are of needle and needle-code"),
    ],
)
def test_bad_input_is_one_clear_line(words: list[str], said: str, command: RunCommand) -> None:
    done = command("eval", *words)
    assert done.code != 0
    assert said in done.err
    assert "Traceback" not in done.err


def test_contamination_names_problem_and_document(data: Path, tmp_path: Path, command: RunCommand) -> None:
    (tmp_path / "clean.txt").write_text("nothing of it")
    done = command("eval", "contamination", tmp_path, "gsm8k", "--data", data)
    assert done.code == 0
    assert "0 of" in done.err


def test_damaged_data_is_named_with_its_line(data: Path, tmp_path: Path, command: RunCommand) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    file = next((folder / "gsm8k").glob("test.*"))
    file.write_bytes(b'{"question": "1 + 1", "answer": "#### 2"}\n{"question": ')
    done = command("eval", "gsm8k", "--answers", "empty", "--data", folder, "--out", tmp_path / "out")
    assert done.code != 0
    assert f"{file}:2: damaged, not JSON" in done.err


def test_all_goes_on_after_a_damaged_file_and_fails_at_the_end(
    data: Path, tmp_path: Path, command: RunCommand
) -> None:
    """It ended there: what came after was neither run nor listed."""
    folder = tmp_path / "data"
    for kept in ("gsm8k", "math-odyssey"):
        shutil.copytree(data / kept, folder / kept)
    file = next((folder / "gsm8k").glob("test.*"))
    file.write_bytes(b'{"question": ')
    words = ["eval", "all", "--answers", "empty", "--data", folder, "--out", tmp_path / "out"]
    done = command(*words, "--lengths", "1000", "--depths", "0")
    assert done.code == 2
    said = {line.split()[0]: line for line in done.out.splitlines()}
    assert f"not run: gsm8k: {file}:1: damaged, not JSON" in said["gsm8k"]
    assert said["gsm8k"].endswith("/test.jsonl")  # where the sound one is
    assert "accuracy 0.0 %" in said["math-odyssey"]
    assert done.err.splitlines()[-1].startswith("coderv2: gsm8k: not run")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["gsm8k"]["damaged"]


def test_alone_it_shows_its_help_line_by_line(command: RunCommand) -> None:
    outcome = command("eval")
    assert outcome.code == 0
    assert "\n  contamination " in outcome.out


def test_an_empty_folder_is_no_clean_corpus(data: Path, tmp_path: Path, command: RunCommand) -> None:
    """A folder without a file, as of a mistyped name, was told to hold none of the problems."""
    done = command("eval", "contamination", tmp_path, "gsm8k", "--data", data)
    assert done.code == 2
    assert "an empty folder" in done.err


def test_without_the_packages_of_evaluation_the_way_out_is_one_line(
    data: Path, tmp_path: Path, command: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `make serve` a report was a traceback, and formulas were missed when replies had been made."""
    command("eval", "gsm8k", "--answers", "empty", "--data", data, "--out", tmp_path / "out")
    monkeypatch.setattr("coderv2.evaluation.plots.find_spec", lambda name: None)
    monkeypatch.setattr("coderv2.text.symbolic.find_spec", lambda name: None)
    reported = command("eval", "report", tmp_path / "out")
    assert (reported.code, reported.err.count("\n")) == (2, 1)
    assert "pip install matplotlib" in reported.err
    run = command("eval", "math", "--answers", "empty", "--data", data, "--out", tmp_path / "out")
    assert "cannot run math without math-verify" in run.err


def test_an_interrupted_run_does_not_wait_for_the_programs_that_it_judges(tmp_path: Path) -> None:
    """Ctrl-C took until the last of them had used up its time."""
    values = dict.fromkeys(("model", "endpoint", "judge", "judge_model", "tokenizer", "unprotected"))
    bench = _Bench([], tmp_path, Settings(), {**values, "answers": "empty"})
    program = Program("python", "import time; time.sleep(50)", limits=Limits(seconds=60.0))
    begin = time.monotonic()
    try:
        with pytest.raises(TimeoutError), bench.open() as (_, _, toolbox):
            asyncio.run(asyncio.wait_for(toolbox.run(program), 1.0))
    except NoSandbox as error:
        pytest.skip(str(error))
    assert time.monotonic() - begin < 20
