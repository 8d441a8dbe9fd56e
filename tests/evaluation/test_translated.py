# ruff: noqa: E501  programs as they are
"""Chat replies in other languages, fitted between prompt and tests."""

import pytest

from coderv2.evaluation import translated
from tests.evaluation.tasks.invented import translated as row

JAVA = row("java", "java")
REPLIES = {
    "the whole class": "import java.util.*;\nclass Problem {\n    public static long twice(long x) {\n        return 2 * x;\n    }\n}\n",
    "the method at the margin": "public static long twice(long x) {\n    return 2 * x;\n}\n",
    "another class": "public class Solution {\n    public static long twice(long x) {\n        return 2 * x;\n    }\n}\n",
    "the body": "        return 2 * x;\n    }\n}\n",
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
def test_a_method_comes_back_as_the_prompt_began_it(reply: str) -> None:
    found = translated.program(JAVA["prompt"], reply, tuple(JAVA["stop_tokens"]))
    assert found.rstrip() == (JAVA["prompt"] + "        return 2 * x;").rstrip()


def test_helpers_come_before_the_function_and_imports_before_everything() -> None:
    prompt = "#include<assert.h>\n// Twice x.\nlong twice(long x) {\n"
    block = "#include <vector>\n\nlong add(long a, long b) {\n    return a + b;\n}\n\nlong twice(long x) {\n    return add(x, x);\n}\n\nint main() {\n    return 0;\n}\n"
    found = translated.program(prompt, block, ("\n}",))
    assert found.startswith("#include <vector>\n#include<assert.h>\n")
    assert found.index("long add") < found.index("long twice")
    assert found.endswith("    return add(x, x);")
    assert "main" not in found


def test_the_first_line_of_a_script_stays_first() -> None:
    found = translated.program(
        "<?php\nfunction f($x) {\n", "<?php\nuse A;\nfunction f($x) {\n    return 1;\n}\n", ("\nfunction",)
    )
    assert found.splitlines()[:3] == ["<?php", "use A;", "function f($x) {"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("long twice(long x) {", "twice"),
        ("(define (twice x)", "twice"),
        ("twice <- function(x) {", "twice"),
        ("twice() {", "twice"),
        ("// twice(3)", ""),
        ("", ""),
    ],
)
def test_the_head_of_a_function_is_known_in_every_language(line: str, name: str) -> None:
    assert translated.function_name(line) == name


GO = 'package twice_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\n// Twice x.\nfunc twice(x int) int {\n'


def test_a_go_program_has_one_package_and_each_import_once_and_only_what_is_used() -> None:
    """It had two package clauses, and `fmt` twice."""
    reply = (
        'package main\n\nimport (\n\t"fmt"\n\t"os"\n\t"sort"\n\tm "math/big"\n)\n\n'
        "func main() {\n\tif true {\n\t\tos.Exit(twice(1))\n\t}\n}\n\n"
        "func half(x int) int {\n\treturn x / 2\n}\n\n"
        "func twice(x int) int {\n\tsort.Ints([]int{x})\n\tfmt.Println(m.NewInt(1))\n\treturn 2 * x\n}\n"
    )
    found = translated.program(GO, reply, ("\nfunc", "\n// "))
    assert found.startswith(
        'package twice_test\nimport "sort"\nimport m "math/big"\n\nimport (\n    "testing"\n'
    )
    assert found.count("package") == 1
    assert found.count('"fmt"') == 1
    assert "main" not in found
    assert "os" not in found
    assert "func half(x int) int {\n\treturn x / 2\n}\n" in found
    assert found.rstrip().endswith("return 2 * x\n}")


@pytest.mark.parametrize(
    "main",
    [
        "int main() {\n    if (1) {\n        return 0;\n    }\n}\n",
        "int main(void)\n{\n    return 0;\n}\n",
        "int main() { return 0; }\n",
        "int main();\n",
    ],
)
def test_a_main_before_the_function_is_dropped(main: str) -> None:
    """It stood beside the tests' own."""
    prompt = "#include<assert.h>\nlong twice(long x) {\n"
    block = f"long one() {{\n    return 1;\n}}\n{main}long two() {{\n    return 2;\n}}\nlong twice(long x) {{\n    return two();\n}}\n"
    found = translated.program(prompt, block, ("\n}",))
    assert "main" not in found
    assert "long one() {\n    return 1;\n}\nlong two() {\n    return 2;\n}\n" in found


@pytest.mark.parametrize(
    ("prompt", "main"),
    [
        ("function twice(x)\n", "function main()\n    one()\nend\n"),
        ("(define (twice x)\n", "(define (main)\n  (one))\n"),
    ],
)
def test_a_main_without_braces_stays_whole(prompt: str, main: str) -> None:
    assert main in translated.program(prompt, f"{main}{prompt}    return 2\n", ())
