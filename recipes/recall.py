"""How many of the exercises that it was taught a chat model still writes correctly."""

import re
import subprocess
import sys
import tempfile

from coderv2.data import exercises
from coderv2.engine.llm import LLM
from coderv2.engine.request import SamplingParams

SECONDS = 10
"""For one program with its checks."""


def answered(llm: LLM) -> dict[str, float]:
    """How many hand-written exercises get, when asked for in chat, a program that passes the checks."""
    asked = exercises.bank()
    questions = [[{"role": "user", "content": f"Write a Python function that {e.says}."}] for e in asked]
    outputs = llm.chat(questions, SamplingParams(temperature=0.0, max_tokens=400), use_tqdm=False)
    good = [passes(e, output.outputs[0].text) for e, output in zip(asked, outputs, strict=True)]
    return {"chat": len(asked), "solved": sum(good) / len(good)}


def passes(exercise: exercises.Exercise, answer: str) -> bool:
    """Whether the first fenced program of `answer` passes the checks, in a process of its own, within seconds.

    That process is not a sandbox: it may do whatever this user may do.
    """
    fenced = re.search(r"```python\n(.*?)```", answer, re.DOTALL)
    if fenced is None:
        return False
    checks = "".join(f"assert {check}\n" for check in exercise.checks)
    program = f"{fenced[1]}\nfrom pathlib import Path\nfolder = Path.cwd()\n{checks}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            return (
                subprocess.run(
                    [sys.executable, "-I", "-c", program], cwd=folder, capture_output=True, timeout=SECONDS
                ).returncode
                == 0
            )
        except subprocess.TimeoutExpired:
            return False
