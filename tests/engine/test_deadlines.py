import pytest

from coderv2.engine.deadlines import Deadlines, check_deadline
from coderv2.engine.luck import Luck
from coderv2.engine.request import Request, SamplingParams
from coderv2.errors import InvalidValue
from tests.tiny_tokenizer import tiny_tokenizer


def request(name: str = "r") -> Request:
    return Request(name, 0, SamplingParams(), [1], 10, tiny_tokenizer(), Luck(0))


def test_those_whose_time_is_up_come_once_the_nearest_first() -> None:
    deadlines, early, late, later = Deadlines(), request("early"), request("late"), request("later")
    deadlines.add([late], 5.0)
    deadlines.add([early], 3.0)
    deadlines.add([later], 9.0)
    assert list(deadlines.passed(2.9)) == []
    assert list(deadlines.passed(5.0)) == [early, late]
    assert list(deadlines.passed(5.0)) == []


def test_those_that_have_ended_are_left_out() -> None:
    deadlines, ended = Deadlines(), request()
    deadlines.add([ended], 1.0)
    ended.abort()
    assert list(deadlines.passed(2.0)) == []


def test_ended_requests_with_far_deadlines_are_let_go() -> None:
    deadlines, kept = Deadlines(), request("kept")
    deadlines.add([kept], 1e9)
    for _ in range(10_000):
        ended = request()
        deadlines.add([ended], 1e8)
        ended.abort()
        assert len(deadlines) < 200
    assert list(deadlines.passed(1e9)) == [kept]


def test_infinity_is_no_deadline_and_what_has_passed_is_refused() -> None:
    deadlines = Deadlines()
    deadlines.add([request()], check_deadline(5.0, None))
    assert len(deadlines) == 0
    with pytest.raises(InvalidValue, match="above 0"):
        check_deadline(5.0, -1.0)
