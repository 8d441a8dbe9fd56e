"""Verdicts, language by language: a right program, a wrong one, one that does not compile, one without an end."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from coderv2.errors import InvalidValue, NoSandbox, SandboxFailed
from coderv2.sandbox import toolchains
from coderv2.sandbox.judge import Case, Judge, Program
from coderv2.sandbox.languages import LANGUAGES, language
from coderv2.sandbox.limits import Limits, Outcome
from coderv2.sandbox.run import best_sandbox


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    try:
        judge = Judge(best_sandbox(), workers=2)
    except NoSandbox as error:
        pytest.skip(str(error))
    with judge:
        yield judge


@dataclass(frozen=True)
class Example:
    """A function that returns its argument plus one; `{}` stands for that, an endless loop, or rubbish."""

    source: str
    tests: str
    right: str = "x + 1"
    wrong: str = "x + 2"
    broken: str = ") x"


EXAMPLES = {
    "python": Example("def f(x):\n    return {}\n", "assert f(1) == 2\n"),
    "cpp": Example(
        "#include <cassert>\nint f(int x) {{ return {};\n", "}\nint main() {\n    assert(f(1) == 2);\n}\n"
    ),
    "java": Example(
        "import java.util.*;\nclass Problem {{\n  static int f(int x) {{ return {};\n",
        "  }\n  public static void main(String[] args) {\n    assert(f(1) == 2);\n  }\n\n}\n",
    ),
    "csharp": Example(
        "using System.Diagnostics;\nclass Problem {{\n  static int f(int x) {{ return {};\n",
        "  }\n  public static void Main(string[] args) {\n    Debug.Assert(f(1) == 2);\n  }\n\n}\n",
    ),
    "php": Example(
        "<?php\nfunction f($x) {{ return {}; }}\n",
        'if (f(1) !== 2) { throw new Exception("Test failed!"); }\n',
        "$x + 1",
        "$x + 2",
    ),
    "javascript": Example(
        "function f(x) {{ return {}; }}\n",
        "const assert = require('node:assert');\nassert.deepEqual(f(1), 2);\n",
    ),
    "typescript": Example(
        "function f(x: number): number {{ return {}; }}\n",
        "declare var require: any;\nconst assert = require('node:assert');\nassert.deepEqual(f(1), 2);\n",
    ),
    "bash": Example(
        "f() {{\n    echo {}\n",
        "}\nset -e\nrun_test() {\n    [[ $(f 1) = 2 ]]\n}\nrun_test\n",
        "$(($1 + 1))",
        "$(($1 + 2))",
        "$((",
    ),
    "go": Example(
        'package main\nimport (\n  "testing"\n  "fmt"\n)\nfunc f(x int) int {{ return {} }}\n',
        'func TestF(t *testing.T) {\n  if fmt.Sprint(f(1)) != "2" {\n    t.Errorf("wrong")\n  }\n}\n',
    ),
    "rust": Example("fn f(x: i64) -> i64 {{ {}\n", "}\nfn main() {\n    assert_eq!(f(1), 2);\n}\n"),
    "d": Example("int f(int x) {{ return {}; }}\n", "unittest { assert(f(1) == 2); }\nvoid main(){}\n"),
    "r": Example("f <- function(x) {{ {} }}\n", "stopifnot(isTRUE(all.equal(f(1), 2)))\n"),
    "racket": Example(
        "#lang racket\n(define (f x) {})\n",
        "(require rackunit)\n(check-within (f 1) 2 0.001)\n",
        "(+ x 1)",
        "(+ x 2)",
        ")) x",
    ),
    "julia": Example("f(x) = {}\n", "using Test\n@test(f(1) == 2)\n"),
    "swift": Example("func f(_ x: Int) -> Int {{ return {}\n", "}\nassert(f(1) == 2)\n"),
}
ENDLESS = {
    "python": "while True:\n    pass\n",
    "cpp": "int main() { for (volatile int i = 0;; i = i + 1); }\n",
    "java": "class Main { public static void main(String[] a) { while (true) { } } }\n",
    "csharp": "class P { static void Main() { while (true) { } } }\n",
    "php": "<?php while (true) { }\n",
    "javascript": "while (true) { }\n",
    "typescript": "while (true) { }\n",
    "bash": "while true; do :; done\n",
}


@pytest.fixture(params=EXAMPLES)
def name(request: pytest.FixtureRequest) -> str:
    """Each language that is here."""
    return here(request.param)


def here(name: str) -> str:
    if toolchains.find(name) is None:
        pytest.skip(f"no toolchain for {name}: install {language(name).package}")
    return name


def attempt(name: str, answer: str) -> Program:
    example = EXAMPLES[name]
    return Program(name, example.source.format(answer), example.tests, limits=Limits(seconds=60.0))


def test_every_language_has_an_example() -> None:
    assert EXAMPLES.keys() == {each.name for each in LANGUAGES}


def test_a_right_a_wrong_and_a_broken_program(judge: Judge, name: str) -> None:
    example = EXAMPLES[name]
    right, wrong, broken = judge.judge(
        attempt(name, answer) for answer in (example.right, example.wrong, example.broken)
    )
    assert right.passed, right
    assert not wrong.passed
    assert wrong.reason == ("error" if name == "bash" else "wrong"), wrong
    assert not broken.passed
    assert broken.reason in ("compile", "error"), broken


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_program(judge: Judge, name: str) -> None:
    verdict = judge.judge_one(Program(here(name), ENDLESS[name], limits=Limits(seconds=2.0)))
    assert verdict.reason == "timeout", verdict


@pytest.mark.parametrize(
    "cheat",
    ["import os; os._exit(0)", "raise SystemExit", "print('passed')\nimport sys; sys.exit(0)", "quit()"],
)
def test_leaving_early_is_not_passing(judge: Judge, cheat: str) -> None:
    assert judge.judge_one(Program("python", cheat, "assert False")).reason == "error"


def test_a_c_program_that_leaves_early_has_not_passed(judge: Judge) -> None:
    tests = "}\nint main() {\n    f(1);\n}\n"
    program = Program(here("cpp"), "#include <cstdlib>\nint f(int x) { exit(0);\n", tests)
    assert judge.judge_one(program).reason == "error"


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("php", " ?>\n<p>"),
        ("php", "\n__halt_compiler();"),
        ("bash", "\ncat <<EOF"),
        ("bash", "\ncat <<'EOF'"),
    ],
)
def test_a_program_that_has_its_tests_printed_has_not_passed(judge: Judge, name: str, end: str) -> None:
    example = EXAMPLES[here(name)]
    closed = "}" if name == "bash" else ""
    source = example.source.format(example.wrong) + closed + end
    assert judge.judge_one(Program(name, source, example.tests)).reason == "error"


def test_a_right_php_program_that_closes_its_tag_passes(judge: Judge) -> None:
    example = EXAMPLES[here("php")]
    for end in ("?>", "\n?>\n", "  ?>\n\n"):
        right, wrong = (example.source.format(answer) + end for answer in (example.right, example.wrong))
        assert judge.judge_one(Program("php", right, example.tests)).passed
        assert judge.judge_one(Program("php", wrong, example.tests)).reason == "wrong"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = bytearray(8 << 30)", "memory"),
        ("while True: print('x' * 1000)", "output"),
        ("open('big', 'wb').write(bytes(64 << 20))", "error"),
        ("def f(:", "compile"),
        ("raise ValueError", "error"),
        ("assert False", "wrong"),
        ("print('AssertionError')\nimport sys; print('AssertionError', file=sys.stderr)", "passed"),
    ],
)
def test_reasons(judge: Judge, source: str, reason: str) -> None:
    assert judge.judge_one(Program("python", source)).reason == reason


def test_cases_compare_lines_without_the_space_at_their_ends(judge: Judge) -> None:
    double = "print(int(input()) * 2, '')\n"
    cases = (Case(b"2\n", "4"), Case(b"5\n", "10\n\n"))
    assert judge.judge_one(Program("python", double, cases=cases)).passed
    verdict = judge.judge_one(Program("python", double, cases=(*cases, Case(b"1", "3"))))
    assert (verdict.reason, verdict.detail) == ("wrong", "printed 2 \n")


def test_verdicts_come_in_order(judge: Judge) -> None:
    programs = [
        Program("python", f"import time; time.sleep({i % 3 / 20}); assert {i} % 2") for i in range(20)
    ]
    assert [verdict.passed for verdict in judge.judge(programs)] == [i % 2 == 1 for i in range(20)]


def vouched(body: str) -> Program:
    """A judge: a driver may call its `main`, or start it as a program."""
    return Program(
        "python", f"def main():\n    {body}\n\nif __name__ == '__main__':\n    main()\n", vouched=True
    )


def test_a_judge_in_the_box_is_believed_only_with_the_secret_word(judge: Judge) -> None:
    for _ in range(2):  # loaded, and kept
        assert judge.judge_one(vouched("print(input(), 'passed')")).passed
    wrong = judge.judge_one(vouched("print(input(), 'timeout', 'too', 'late')"))
    assert (wrong.reason, wrong.detail) == ("timeout", "too late")
    assert judge.judge_one(vouched("print('0' * 32, 'passed')")).reason == "error"
    assert judge.judge_one(vouched("pass")).reason == "error"
    failing = judge.judge_one(vouched("raise ValueError('judge')"))
    assert (failing.reason, failing.detail.splitlines()[-1]) == ("error", "ValueError: judge")


def test_files_lie_beside_the_program(judge: Judge) -> None:
    program = Program("python", "import other; assert other.x == 3", files={"other.py": "x = 3"})
    assert judge.judge_one(program).passed


def test_what_cannot_be_judged_is_no_verdict_on_the_program() -> None:
    class Broken:
        name = "broken"

        def run(self, job: object) -> Outcome:
            raise SandboxFailed("no box")

        def close(self) -> None:
            """Nothing to close."""

    with Judge(Broken(), workers=1) as judge:
        verdict = judge.judge_one(Program("python", ""))
    assert (verdict.passed, verdict.reason, verdict.detail) == (False, "sandbox", "no box")


def test_an_unknown_language_is_an_error(judge: Judge) -> None:
    with pytest.raises(InvalidValue, match="no language 'cobol'"):
        judge.judge_one(Program("cobol", ""))
