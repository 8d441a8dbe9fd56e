"""Yes and no in Chinese."""

import pytest

from coderv2.evaluation.tasks.cluewsc import TASKS


@pytest.mark.parametrize(
    ("reply", "answer"),
    [("是", "是"), ("否。", "否"), ("不是", "否"), ("不，", "否"), ("是否指小明？是", "是"), ("小明", "")],
)
def test_no_is_not_read_as_yes(reply: str, answer: str) -> None:
    """不是 (no) was read as 是 (yes)."""
    assert TASKS[0].extract(reply) == answer
