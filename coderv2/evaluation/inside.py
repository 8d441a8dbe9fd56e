"""Judges of ours that run inside the sandbox, beside what they judge and out of its reach (`*_checker.py` here)."""

import marshal
from functools import cache
from pathlib import Path

from coderv2.sandbox.judge import Program
from coderv2.sandbox.limits import Limits

_START = "import marshal\nwith open('checker', 'rb') as file:\n    exec(marshal.load(file))\n"


def program(checker: str, *parts: bytes, limits: Limits, vouched: bool = True) -> Program:
    """The checker, which reads the parts from its standard input, and then the judge's secret word if it is vouched."""
    stdin = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return Program("python", _START, files=_compiled(checker), stdin=stdin, vouched=vouched, limits=limits)


@cache
def _compiled(checker: str) -> dict[str, bytes]:
    """Compiled once, by the interpreter that will run it: that takes as long as ten short candidates."""
    file = Path(__file__).with_name(f"{checker}.py")
    return {"checker": marshal.dumps(compile(file.read_text("utf-8"), file.name, "exec", optimize=2))}
