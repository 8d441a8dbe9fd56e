"""The checker of HumanEval+ and MBPP+; how it judges is tested through `plus` on real data."""

import time

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
