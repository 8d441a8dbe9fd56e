"""A forked Python program does what `python program.py` does."""

# ruff: noqa: E501 (a program stays on the line that it is one of)

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderv2.sandbox.namespaces import Namespaces
from coderv2.sandbox.run import Job
from coderv2.sandbox.view import environment
from tests.sandbox.drivers import opened

DEPTH = "def f(n):\n    global deepest\n    deepest = n\n    f(n + 1)\ntry:\n    f(1)\nexcept RecursionError:\n    print(deepest)\n"
PROGRAMS = {
    "closes its output": "import sys\nprint(4)\nsys.stdout.close()",
    "leaves a file open on its output": "out = open(1, 'w')\nout.write('4')",
    "leaves one open in a cycle": "class A:\n    pass\na = A()\na.a, a.out = a, open(1, 'w')\na.out.write('4')",
    "puts something in place of its output": "import os, sys\nprint('4')\nsys.stdout = open(os.devnull, 'w')",
    "puts a wrapper in its place": "import io, sys\nprint('4')\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'latin-1')\nprint('é')",
    "puts nothing in its place": "import sys\nprint('4')\nsys.stdout = None",
    "puts what cannot be flushed in its place": "import sys\nprint('4')\nsys.stdout = 5",
    "cannot write": "import os, sys\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nprint('4')",
    "cannot write and fails": "import os, sys\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nprint('4')\nsys.exit(3)",
    "nests calls": DEPTH,
    "sets how deep": f"import sys\nprint(sys.getrecursionlimit())\nsys.setrecursionlimit(500)\nprint(sys.getrecursionlimit())\n{DEPTH}",
    "sets it as deep as can be": "import sys\nsys.setrecursionlimit(2**31 - 1)\ntry:\n    sys.setrecursionlimit(0)\nexcept ValueError as error:\n    print(error)",
    "reads what is no text": "import sys\ntext = sys.stdin.read()\nprint(repr(text))\nprint(text)",
    "reads bytes": "import sys\nprint(sys.stdin.buffer.read())",
    "asks line by line": "for _ in range(3):\n    try:\n        print(repr(input()))\n    except EOFError:\n        print('end')",
    "prints half a character": "print('\\ud800')",
    "has a hook for exceptions": "import sys\nsys.excepthook = lambda *a: print('hook', *a[:2])\n1 / 0",
    "has one that fails": "import sys\nsys.excepthook = 5\n1 / 0",
    "says goodbye": "import atexit\nclass A:\n    def __del__(self): print('bye', WORD)\nWORD = 'x'\na = A()\natexit.register(print, 'first')",
    "says goodbye from a generator": "def g():\n    try:\n        yield\n    finally:\n        print('end')\nx = g()\nnext(x)",
    "fails and says goodbye": "class A:\n    def __del__(self): print('bye')\na = A()\n1 / 0",
    "leaves a daemon": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\nprint(4)",
    "exits with a word": "raise SystemExit('word')",
    "exits with a number": "raise SystemExit(7)",
    "looks at itself": "import sys\nprint(__name__, __builtins__, __annotations__, sys.argv, sys.stdin.errors, sys.stdout.errors, sys.stdout.encoding)",
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Namespaces]:
    yield from opened(Namespaces)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_forked_program_does_what_a_started_one_does(
    sandbox: Namespaces, tmp_path: Path, name: str
) -> None:
    given = b"\xff\xfe\r\nb\rc"
    (tmp_path / "program.py").write_text(PROGRAMS[name])
    command = [sys.executable, "program.py"]
    started = subprocess.run(
        command, cwd=tmp_path, env=environment(), input=given, capture_output=True, timeout=30, check=False
    )
    forked = sandbox.run(Job(command, files={"program.py": PROGRAMS[name]}, stdin=given))
    assert (forked.status, forked.code, forked.stdout) == ("exited", started.returncode, started.stdout)
    said, says = (text.decode().strip().rpartition("\n")[2] for text in (started.stderr, forked.stderr))
    assert says.partition(":")[0] == said.partition(":")[0]
