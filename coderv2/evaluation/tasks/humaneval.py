"""HumanEval (Chen et al. 2021): 164 Python functions from their docstrings, checked by their tests."""

from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.evaluation.asking import Ask, Chat, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.execution import LIMITS, Executed, cut, fenced, is_chat
from coderv2.sandbox.judge import Program
from coderv2.text import snippets

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
INSTRUCTION = (
    "Complete the {language} function below. Return the final, complete version of your function in a code block. "
    "Here is the unfinished function:\n```{tag}\n{prompt}\n"
)
_DECODING = Decoding(max_tokens=1024)


@dataclass(frozen=True, kw_only=True)
class HumanEval(Executed):
    """Rows of `prompt`, `entry_point`, `canonical_solution`, `test`."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each row."""
        (source,) = self.sources
        return (Problem(row["task_id"], row) for row in data.rows(source))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """Chat: an instruction and the prompt in an open code block. Base: the prompt alone."""
        text = problem.row["prompt"]
        if style == "chat":
            return Chat.of(INSTRUCTION.format(language="Python", tag="python", prompt=text), _DECODING)
        return Complete(text, Decoding(max_tokens=1024, stop=STOPS))

    def code(self, problem: Problem, exchange: Exchange) -> str | None:
        """The function, with the prompt in front of it where the reply goes on from there."""
        prompt, reply = str(problem.row["prompt"]), exchange.reply.text
        if not is_chat(exchange):
            return prompt + cut(reply, STOPS)
        function = snippets.function(reply, prompt, problem.row["entry_point"])
        # The prompt first: some tests call a helper that it defines, and replies leave it out.
        return None if function is None else snippets.joined(prompt, "\n\n", function)

    def program(self, problem: Problem, code: str) -> Program:
        """Function, tests, and the call of `check`."""
        row = problem.row
        return Program("python", code, tests=f"{row['test']}\n\ncheck({row['entry_point']})\n", limits=LIMITS)

    def canonical(self, problem: Problem, style: Style) -> str:
        """The body for a base model, the whole function for a chat model."""
        body: str = problem.row["canonical_solution"]
        return fenced(problem.row["prompt"] + body) if style == "chat" else body


TASKS = (
    HumanEval(
        name="humaneval",
        title="HumanEval",
        sources=(
            Source(
                "humaneval/HumanEval.jsonl.gz",
                "https://github.com/openai/human-eval/raw/6d43fb980f9fee3c892a914eda09951f772ad10d/data/HumanEval.jsonl.gz",
            ),
        ),
    ),
)
