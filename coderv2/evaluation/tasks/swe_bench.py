"""SWE-bench Lite (Jimenez et al. 2024): 300 issues of Python projects; a patch must make their tests pass.

The judging is the `swebench` package's, in its containers. The published 12.7 % are an agent's; what is asked here
is one
patch from the issue's text alone, so that numbers of models are not comparable with it. Patches that an agent made are
judged with --answers.
"""

import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coderv2.errors import ServiceError
from coderv2.evaluation import processes
from coderv2.evaluation.asking import Ask, Chat, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.task import Score, Scored, Tools
from coderv2.text import snippets

_SOURCE = Source(
    "swe-bench-lite/test.jsonl.gz",
    how="the test split of huggingface.co/datasets/princeton-nlp/SWE-bench_Lite as JSON lines",
)
_SECONDS = 2400.0
_MODEL = "coderv2"
# What the harness logs where it is the patch that failed, among the errors that say nothing about it.
_PATCH_FAILED = {"Patch Apply Failed": "patch does not apply", "Test timed out": "timeout"}
_INSTRUCTION = (
    "This is an issue of the repository {repo}, at version {version}:\n\n{issue}\n\nSolve it: answer with "
    "a patch in the "
    "format of git diff, in one ```diff code block."
)


@dataclass(frozen=True, kw_only=True)
class SweBench(Scored):
    """Resolved when all tests that failed pass, and none that passed fails."""

    metric: str = "resolved"

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each instance."""
        return (Problem(row["instance_id"], row, row["repo"]) for row in data.rows(_SOURCE))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """The issue alone."""
        row = problem.row
        text = _INSTRUCTION.format(repo=row["repo"], version=row["version"], issue=row["problem_statement"])
        return Chat.of(text, Decoding(4096, temperature=0.5, top_p=0.95))

    async def score(self, problem: Problem, exchange: Exchange, tools: Tools) -> Score:
        """One instance at a time, by the harness."""
        patch = cleaned(exchange.reply.text)
        if not patch:
            return Score(0.0, "no patch")
        with tempfile.TemporaryDirectory(prefix="coderv2-swe-bench-") as scratch:
            reason, said = await _harness(problem, patch, Path(scratch))
        return Score(float(reason == "passed"), reason, said[-2000:], program=patch)

    def lacks(self) -> str | None:
        """The harness and its containers."""
        return processes.absent(
            ("swebench", "docker"), "pip install swebench, and Docker (x86-64, 120 GB of disk for the images)"
        )

    def canonical(self, problem: Problem, style: Style) -> str:
        """The authors' patch."""
        return f"```diff\n{problem.row['patch']}\n```"


def cleaned(reply: str) -> str:
    """The patch in a reply, from its first `diff --git` or `---` line, ended by a newline; nothing without one."""
    blocks = [block.code for block in snippets.blocks(reply)]
    text = next((code for code in blocks if re.search(r"(?m)^(diff --git|--- )", code)), reply)
    start = re.search(r"(?m)^(diff --git |--- )", text)
    return text[start.start() :].rstrip() + "\n" if start else ""


async def _harness(problem: Problem, patch: str, folder: Path) -> tuple[str, str]:
    """The verdict's reason, and what the harness said. Raises ServiceError where it failed itself."""
    dataset, predictions = folder / "dataset.jsonl", folder / "predictions.jsonl"
    dataset.write_text(json.dumps(dict(problem.row)) + "\n", "utf-8")
    prediction = {"instance_id": problem.id, "model_name_or_path": _MODEL, "model_patch": patch}
    predictions.write_text(json.dumps(prediction) + "\n", "utf-8")
    run = f"coderv2-{folder.name[-8:]}"
    command = ("swebench", "eval", str(dataset), "-p", str(predictions), "--run-id", run, "-j", "1")
    ended = await processes.call(*command, folder=folder, seconds=_SECONDS)
    reports = list(folder.glob(f"*{run}*.json"))
    if not reports:
        raise ServiceError(f"swebench ended with {ended.code} and left no report: {ended.output[-500:]}")
    report = json.loads(reports[0].read_text("utf-8"))
    if problem.id in report.get("error_ids", ()):
        return _failure(folder, ended.output), ended.output
    return "passed" if problem.id in report["resolved_ids"] else "not resolved", ended.output


def _failure(folder: Path, output: str) -> str:
    """In which way the patch failed. Raises ServiceError where it was the harness that did: no wrong answer."""
    logs = "\n".join([output, *(log.read_text("utf-8", "replace") for log in folder.rglob("*.log"))])
    for mark, reason in _PATCH_FAILED.items():
        if mark in logs:
            return reason
    raise ServiceError(f"swebench could not judge the patch: {logs[-500:]}")


TASKS = (
    SweBench(
        name="swe-bench-lite", title="SWE-Bench", sources=(_SOURCE,), styles=("chat",),
        note="One patch from the issue's text; the published number is an agent's.",
    ),
)  # fmt: skip
