"""How USACO's programs are judged."""

from pathlib import Path

from coderv2.evaluation.tasks.usaco import TASKS
from tests.evaluation.tasks import invented

(TASK,) = TASKS


def test_a_problems_limit_is_one_of_processor_time(tmp_path: Path) -> None:
    """On a busy machine right programs were late by the clock on the wall."""
    (problem,) = TASK.problems(invented.data(tmp_path))
    limits = TASK.program(problem, "").limits
    assert limits.cpu_seconds == problem.row["runtime_limit"]
    assert limits.seconds > 2 * limits.cpu_seconds
    assert limits.memory_bytes == problem.row["memory_limit"] << 20
