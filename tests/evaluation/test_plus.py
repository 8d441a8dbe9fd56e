"""Verdicts on HumanEval+ and MBPP+ completions beside evalplus' own."""

from pathlib import Path

import pytest

from benchmarks.plus_completions import Completion, completions
from benchmarks.plus_peer import HOW, PYTHON, EvalPlus
from coderv2 import paths
from coderv2.evaluation import plus
from coderv2.sandbox.judge import Judge, Verdict

# evalplus counts no answer to it, and fails everybody, its own solution too.
ON_PURPOSE = {"HumanEval/32"}


def row(**more: object) -> dict[str, object]:
    """A task of doubling."""
    made = {
        "task_id": "Made/1", "prompt": "def f(x):\n", "canonical_solution": "    return 2 * x\n", "entry_point": "f",
        "base_input": [[1], [2]], "plus_input": [[30]], "atol": 0,
    }  # fmt: skip
    return {**made, **more}


def judged(code: str, **more: object) -> Verdict:
    task = row(**more)
    with Judge(workers=1) as judge:
        truth = judge.judge_one(plus.reference(task))
        assert truth.passed, truth
        return judge.judge_one(plus.program(task, code, truth.stdout))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def f(x): return x + x", "passed"),
        ("def f(x): return x + x if x < 30 else 0", "wrong"),
        ("def f(x): return None", "wrong"),
        ("def f(x): raise ValueError", "error"),
        ("def g(x): return 2 * x", "error"),
        ("def f(x): return", "wrong"),
        ("def f(x):\n    while True: pass", "timeout"),
        ("import os\nos._exit(0)", "error"),
        ("class Any:\n    def __eq__(self, other): return True\ndef f(x): return Any()", "wrong"),
    ],
)
def test_the_reason_is_told(code: str, reason: str) -> None:
    assert judged(code).reason == reason


@pytest.mark.parametrize("first", [1, 2])
def test_a_candidate_that_stops_its_judge_is_late(first: int) -> None:
    """A standstill of the judge was taken for one of everything."""
    code = (
        f"import os, signal, time\ndef f(x):\n    if x == {first}:\n        os.kill(os.getppid(), signal.SIGSTOP)\n"
        "        time.sleep(2.5)\n        os.kill(os.getppid(), signal.SIGCONT)\n    return 2 * x\n"
    )
    assert judged(code).reason == "timeout"


def test_each_part_defines_the_function_anew() -> None:
    """As with evalplus, which gives each part a process."""
    counting = "calls = []\ndef f(x):\n    calls.append(x)\n    return 2 * x if len(calls) < 3 else 0\n"
    assert judged(counting).passed
    assert judged(counting, base_input=[[1], [2], [3]]).reason == "wrong"


def test_floats_are_compared_with_a_tolerance() -> None:
    floats = {"canonical_solution": "    return x / 3\n"}
    assert judged("def f(x): return x / 3 + 1e-9", **floats).passed
    assert judged("def f(x): return x / 3 + 1e-4", **floats).reason == "wrong"


def test_json_lists_become_what_the_task_takes() -> None:
    assert plus.questions({"task_id": "Mbpp/2", "base_input": [[[1], [2]]]}, "base") == [[(1,), (2,)]]
    assert plus.questions({"task_id": "Mbpp/252", "base_input": [["3+4j"]]}, "base") == [[3 + 4j]]
    assert plus.questions({"task_id": "Mbpp/3", "base_input": [[[1]]]}, "base") == [[[1]]]


@pytest.mark.slow
def test_evalplus_gives_the_same_verdicts(tmp_path: Path) -> None:
    folder = paths.data()
    if folder is None:
        pytest.skip("CODERV2_DATA names no folder of benchmark data")
    if not PYTHON.exists():
        pytest.skip(HOW)
    made = completions(folder)
    assert len(made) >= 500
    assert {one.kind for one in made} == {"right", "wrong", "slow", "hostile"}
    differ = _differ(made, tmp_path, workers=2)
    # A call's limit is four times what the reference took: on a busy machine some wait for longer. Alone they do not.
    differ = _differ(differ, tmp_path, workers=1)
    assert {one.row["task_id"] for one in differ} <= ON_PURPOSE, differ


def _differ(made: list[Completion], folder: Path, workers: int) -> list[Completion]:
    """Those that evalplus and we do not agree on."""
    peer = EvalPlus(made, folder, workers)
    theirs = peer.judge()["passed"]
    peer.close()
    ours = [verdict.passed for verdict in _verdicts(made, workers)]
    return [one for one, mine, other in zip(made, ours, theirs, strict=True) if mine != other]


def _verdicts(made: list[Completion], workers: int) -> list[Verdict]:
    rows = {one.row["task_id"]: one.row for one in made}
    with Judge(workers=workers) as judge:
        truths = dict(zip(rows, judge.judge(map(plus.reference, rows.values())), strict=True))
        programs = (plus.program(one.row, one.code, truths[one.row["task_id"]].stdout) for one in made)
        return list(judge.judge(programs))
