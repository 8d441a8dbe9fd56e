import json
from pathlib import Path

import pytest

from coderv2.errors import UserError
from coderv2.training.monitor import MEMORY, RunLog, SpikeAlarm


def test_each_entry_is_a_line_of_json_added_to_what_is_there(tmp_path: Path) -> None:
    for step in (1, 2):
        RunLog(tmp_path / "run" / "log.jsonl").write(step=step, loss=1.23456789)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 1.234568},
        {"step": 2, "loss": 1.234568},
    ]


def test_the_alarm_rings_at_a_spike_and_thinks_it_no_more_usual() -> None:
    alarm = SpikeAlarm(4.0, [])
    assert not any(alarm.rings(1.0) for _ in range(MEMORY))
    assert alarm.rings(4.1)
    assert not alarm.rings(3.9)
    assert alarm.rings(4.1)


def test_the_alarm_is_silent_until_it_knows_what_is_usual() -> None:
    assert not SpikeAlarm(4.0, []).rings(1000.0)


def test_a_level_that_lasts_becomes_the_usual_one() -> None:
    alarm = SpikeAlarm(4.0, [1.0] * MEMORY)
    rung = [alarm.rings(5.0) for _ in range(200)]
    assert rung == [True] * (MEMORY // 2) + [False] * (200 - MEMORY // 2)


def test_a_run_whose_gradients_stay_no_numbers_is_ended() -> None:
    alarm = SpikeAlarm(4.0, [1.0] * MEMORY)
    assert all(alarm.rings(float("nan")) for _ in range(MEMORY // 2 - 1))
    with pytest.raises(UserError, match="diverged"):
        alarm.rings(float("nan"))


@pytest.mark.parametrize("norm", [float("nan"), float("inf")])
def test_the_alarm_always_rings_for_what_is_no_number(norm: float) -> None:
    assert SpikeAlarm(4.0, []).rings(norm)
