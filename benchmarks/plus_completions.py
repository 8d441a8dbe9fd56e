"""Completions for HumanEval+ and MBPP+ made from the data's own solutions: right, wrong, slow, hostile."""

import ast
import gzip
import json
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FILES = {"humaneval": "humaneval-plus/HumanEvalPlus.jsonl.gz", "mbpp": "mbpp-plus/MbppPlus.jsonl.gz"}
_OTHERS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
_SLOW = ("while True: pass", "import time; time.sleep(2)", "import time; time.sleep(1e9)")
_HOSTILE = (
    "import os; os._exit(0)",
    "raise SystemExit(0)",
    "import sys; sys.exit()",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "return 0" + "+ 0" * 3,
    "x = bytearray(64 << 30)",
    "return (lambda f: f(f))(lambda f: f(f))",
    "import builtins; builtins.all = builtins.any = lambda *a: True; builtins.abs = lambda x: 0; return None",
    "import inspect; [f.frame.f_locals.update(stat=0) for f in inspect.stack()]; return None",
    "import ctypes; ctypes.string_at(0)",
    "raise KeyboardInterrupt",
    "raise AssertionError('passed')",
    "class Silent(BaseException): pass\n    raise Silent",
    "return",
    "print('passed' * 1000); return object()",
)


@dataclass(frozen=True)
class Completion:
    """Code that is to be judged as an answer to a row of one of the two sets."""

    dataset: str
    kind: Literal["right", "wrong", "slow", "hostile"]
    row: dict[str, Any]
    code: str


def completions(folder: Path, seed: int = 0) -> list[Completion]:
    """The same ones on every call: each solution of every second task, one mutation of every task, some worse ones."""
    made: list[Completion] = []
    for dataset, file in FILES.items():
        with gzip.open(folder / file, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        for number, row in enumerate(rows):
            made += (Completion(dataset, kind, row, code) for kind, code in _of(row, number, seed))  # type: ignore[arg-type]
    return made


def _of(row: dict[str, Any], number: int, seed: int) -> Iterator[tuple[str, str]]:
    solution = row["prompt"] + row["canonical_solution"]
    if number % 2 == 0:
        yield "right", solution
    yield "wrong", mutated(solution, row["entry_point"], random.Random(f"{seed} {row['task_id']}"))
    if number % 40 == 1:
        yield "slow", instead(row, _SLOW[number // 40 % len(_SLOW)])
    if number % 12 == 5:
        yield "hostile", instead(row, _HOSTILE[number // 12 % len(_HOSTILE)])


def mutated(code: str, entry_point: str, chance: random.Random) -> str:
    """The code with one operator or constant changed, or a function that returns nothing where there is none. It may
    still be right."""
    with warnings.catch_warnings(
        action="ignore"
    ):  # some of the data's texts have escapes that Python does not know
        tree = ast.parse(code)
    places = [node for node in ast.walk(tree) if _change(node, apply=False)]
    if places:
        _change(chance.choice(places), apply=True)
        return ast.unparse(tree)
    return f"def {entry_point}(*_):\n    return None\n"


def _change(node: ast.AST, *, apply: bool) -> bool:
    """Whether there is another one for this node; puts it there if it should."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        if apply:
            node.value += 1
        return True
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _OTHERS:
        if apply:
            node.ops[0] = _OTHERS[type(node.ops[0])]()  # type: ignore[call-overload]
        return True
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in _OTHERS:
        if apply:
            node.op = _OTHERS[type(node.op)]()  # type: ignore[assignment]
        return True
    return False


def instead(row: dict[str, Any], body: str) -> str:
    """A function of the wanted name with another body."""
    return f"def {row['entry_point']}(*arguments):\n    {body}\n"
