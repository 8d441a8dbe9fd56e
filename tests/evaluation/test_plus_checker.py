"""The checker of HumanEval+ and MBPP+; how it judges is tested through `plus` on real data."""

import os
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from coderv2.evaluation import plus_checker


def test_limits_count_the_digesting_of_long_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mbpp/255: a candidate's million tuples are digested before they come, and the reference's were not timed so."""

    def slowly(answer: object) -> object:
        time.sleep(0.05)
        return answer

    monkeypatch.setattr(plus_checker, "shortened", slowly)
    task = {"code": "def f(x):\n    return x", "entry": "f", "base": [[1]], "plus": []}
    truth = plus_checker.reference(task)
    assert truth["base"] == [1]
    assert truth["base_seconds"][0] >= 0.05


@pytest.mark.parametrize(("seconds_of_a_wait", "late"), [(60.0, False), (0.1, True)])
def test_a_stop_of_the_judge_is_not_the_candidates_time(
    seconds_of_a_wait: float, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifteen waits without an answer, then one: too late for a limit of a second, unless the judge stood still."""
    answers, pipe = os.pipe()
    _, may_go = os.pipe()
    now, waits = [0.0], iter(range(16))

    def select(*_: object) -> tuple[list[int], list[int], list[int]]:
        if next(waits) == 15:
            plus_checker._send(pipe, None)
            return [answers], [], []
        now[0] += seconds_of_a_wait
        return [], [], []

    monkeypatch.setattr(plus_checker, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None))
    monkeypatch.setattr(plus_checker, "select", SimpleNamespace(select=select))
    candidate = plus_checker.Candidate(may_go, answers)
    with pytest.raises(plus_checker.Late) if late else nullcontext():
        candidate.go(1.0)
