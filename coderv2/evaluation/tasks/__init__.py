"""Every benchmark by name: one file each."""

from types import ModuleType

from coderv2.errors import InvalidValue
from coderv2.evaluation.task import Task
from coderv2.evaluation.tasks import (
    agieval,
    aider,
    aime,
    alignbench,
    alpaca_eval,
    arc,
    arena_hard,
    bbh,
    chinese_exams,
    cluewsc,
    cruxeval,
    defects4j,
    evalplus,
    gsm8k,
    humaneval,
    infilling,
    livecodebench,
    math_competition,
    math_odyssey,
    mbpp,
    mmlu,
    mt_bench,
    multilingual,
    needle,
    open_questions,
    repobench,
    santacoder,
    swe_bench,
    usaco,
)

# In the order of the published tables: code, completion, fixing, mathematics, language, judged, context.
_FILES: tuple[ModuleType, ...] = (
    humaneval,
    multilingual,
    evalplus,
    mbpp,
    livecodebench,
    usaco,
    repobench,
    santacoder,
    infilling,
    defects4j,
    swe_bench,
    aider,
    cruxeval,
    gsm8k,
    math_competition,
    aime,
    math_odyssey,
    bbh,
    mmlu,
    arc,
    open_questions,
    agieval,
    cluewsc,
    chinese_exams,
    arena_hard,
    alpaca_eval,
    mt_bench,
    alignbench,
    needle,
)
TASKS: dict[str, Task] = {task.name: task for file in _FILES for task in file.TASKS}


def named(names: tuple[str, ...]) -> list[Task]:
    """The tasks of these names, in the order given. Raises InvalidValue for one that there is none of."""
    for name in names:
        if name not in TASKS:
            near = [known for known in TASKS if known.startswith(name.partition("-")[0])] or list(TASKS)
            raise InvalidValue(
                f"no task {name!r}; there are {', '.join(near)} (see coderv2 eval list)", param="task"
            )
    return [TASKS[name] for name in dict.fromkeys(names)]
