"""HumanEval translated into other languages (MultiPL-E, Cassano et al. 2023), as DeepSeek-Coder's evaluation has it."""

from collections.abc import Iterable
from dataclasses import dataclass

from coderv2.evaluation import translated
from coderv2.evaluation.asking import Ask, Chat, Complete, Decoding, Exchange, Problem, Style
from coderv2.evaluation.data import Data, Source
from coderv2.evaluation.execution import Executed, cut, fenced, is_chat, solution, within
from coderv2.evaluation.tasks.humaneval import INSTRUCTION
from coderv2.sandbox.judge import Program
from coderv2.text import snippets

_ORIGIN = "https://github.com/deepseek-ai/DeepSeek-Coder/raw/2f9fd85927c669dae3c0fbb2d607274023af243e/Evaluation/HumanEval/data/"

# Runtimes such as Java's and .NET's spend seconds of several cores on their start.
_LIMITS = within(20.0)


@dataclass(frozen=True, kw_only=True)
class Translated(Executed):
    """Rows of `prompt`, `test` (to be put after the completion) and `stop_tokens`; no canonical solutions."""

    def problems(self, data: Data) -> Iterable[Problem]:
        """One for each row."""
        (source,) = self.sources
        return (Problem(row["task_id"], row) for row in data.rows(source))

    def prompt(self, problem: Problem, style: Style) -> Ask:
        """Chat: an instruction and the prompt in an open code block. Base: the prompt alone."""
        text = problem.row["prompt"]
        if style == "chat":
            title = self.title.removeprefix("HumanEval ")
            return Chat.of(INSTRUCTION.format(language=title, tag=self.language, prompt=text))
        return Complete(text, Decoding(stop=tuple(problem.row["stop_tokens"])))

    def code(self, problem: Problem, exchange: Exchange) -> str | None:
        """The prompt and the body of its function."""
        prompt, stops = problem.row["prompt"], tuple(problem.row["stop_tokens"])
        if not is_chat(exchange):
            return str(prompt) + cut(exchange.reply.text, stops)
        block = snippets.block(exchange.reply.text, self.language)
        return None if block is None else translated.program(prompt, block, stops)

    def program(self, problem: Problem, code: str) -> Program:
        """Code, then tests."""
        return Program(self.language, code, tests=problem.row["test"], limits=_LIMITS)

    def canonical(self, problem: Problem, style: Style) -> str:
        """The translations bring none; a copy may have one as `canonical_solution`."""
        body = solution(problem)
        return fenced(problem.row["prompt"] + body, self.language) if style == "chat" else body


def _task(short: str, title: str, language: str) -> Translated:
    file = f"humaneval-{short}.jsonl"
    source = Source(f"humaneval-multilingual/{file}.gz", _ORIGIN + file)
    return Translated(
        name=f"humaneval-{short}", title=f"HumanEval {title}", language=language, sources=(source,)
    )


TASKS = tuple(
    _task(short, title, language)
    for short, title, language in [
        ("java", "Java", "java"),
        ("cpp", "C++", "cpp"),
        ("cs", "C#", "csharp"),
        ("ts", "TypeScript", "typescript"),
        ("js", "JavaScript", "javascript"),
        ("php", "PHP", "php"),
        ("sh", "Bash", "bash"),
        ("swift", "Swift", "swift"),
        ("r", "R", "r"),
        ("jl", "Julia", "julia"),
        ("d", "D", "d"),
        ("rs", "Rust", "rust"),
        ("rkt", "Racket", "racket"),
        ("go", "Go", "go"),
    ]
)
