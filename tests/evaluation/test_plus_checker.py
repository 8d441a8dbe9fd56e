"""The checker of HumanEval+ and MBPP+; how it judges is tested through `plus` on real data."""

import os
import pickle
import time
from contextlib import nullcontext, suppress
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

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


HOSTILE = {
    "Fraction.__eq__ = str": b"\x80\x04(I01\ncfractions\nFraction\n(N}V__eq__\ncbuiltins\nstr\nstb)Rt.",
    "Decimal.__eq__ = str": b"\x80\x04(I01\ncdecimal\nDecimal\n(N}V__eq__\ncbuiltins\nstr\nstb)Rt.",
    "list.__eq__ = str": b"\x80\x04(I01\ncbuiltins\nlist\n(N}V__eq__\ncbuiltins\nstr\nstb)Rt.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_pickle_changes_a_class_of_the_judge(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """BUILD sets attributes of whatever is on the stack, and a Fraction was then equal to anything."""
    monkeypatch.setattr(Fraction, "__eq__", Fraction.__eq__)  # restored, should it be changed
    with suppress(TypeError, AttributeError):
        _, answer = plus_checker.loads(HOSTILE[name])
        with pytest.raises(plus_checker.Wrong):
            plus_checker.compare("f", [1], answer, True, [1, 2], 0)
    assert Fraction(1) != "x"


@pytest.mark.parametrize(
    "name", [b"cbuiltins\neval", b"cbuiltins\ntype", b"cnumbers\nRational", b"c__main__\n_identity"]
)
def test_a_pickle_names_nothing_but_plain_kinds(name: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        plus_checker.loads(name + b"\n.")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1 << 99,
        0.5,
        1j,
        "x",
        b"x",
        [1, (2, {3})],
        {"a": range(3)},
        Decimal("1.50"),
        Fraction(1, 3),
    ],
)
def test_plain_values_arrive_as_they_are(value: Any) -> None:
    received = plus_checker.loads(plus_checker.dumps(value))
    assert (type(received), received) == (type(value), value)
