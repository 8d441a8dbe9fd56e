"""Code out of replies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.text.snippets import block, blocks, function, joined, needed

PROMPT = 'from typing import List\n\ndef total(xs: List[int]) -> int:\n    """ Sum. """\n'


def test_the_block_in_the_language_is_taken_before_the_first_one() -> None:
    reply = "Run:\n```sh\npip install x\n```\nthen\n```Python\nprint(1)\n```\n"
    assert block(reply, "python") == "print(1)\n"
    assert block(reply, "bash") == "pip install x\n"
    assert block(reply, "java") == "pip install x\n"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("```python\nx = 1\n", "x = 1\n"),  # cut off before its end
        ("    return 1\n```\nThis returns 1.", "    return 1\n"),
        ("Here is the code:\n```\nx = 1\n", "x = 1\n"),
        ("    return 1\n```", "    return 1\n"),  # goes on in the block that the prompt opened
        ("x = 1", "x = 1"),
        ("Yes", None),
        ("I cannot do that.", None),
        ("", None),
        ("```python\n```", None),
        ("~~~~py\n```\nx\n```\n~~~~", "```\nx\n```\n"),
        ("1. Do:\n   ```python\n   x = 1\n   ```\n", "   x = 1\n"),
    ],
)
def test_odd_fences(reply: str, code: str | None) -> None:
    assert block(reply, "python") == code


def test_demonstrations_are_dropped_and_what_is_needed_is_kept() -> None:
    code = (
        "import math\nfrom functools import cache\ntable = {}\ntable[1] = 2\nunused = 3\n\n"
        "@cache\ndef helper(n):\n    return table.get(n, math.pi)\n\n"
        "def total(xs):\n    return helper(1)\n\n"
        "print(total([1]))\nassert total([]) == 0\nfor i in range(3):\n    print(i)\n"
        "if __name__ == '__main__':\n    total([2])\n"
    )
    kept = needed(code, "total")
    assert "@cache\ndef helper" in kept
    assert "table[1] = 2" in kept
    assert not any(word in kept for word in ("unused", "print", "assert", "__main__"))


def test_a_function_brings_the_prompts_imports() -> None:
    code = function("```python\ndef total(xs: List[int]) -> int:\n    return sum(xs)\n```", PROMPT, "total")
    space: dict[str, object] = {}
    exec(code or "", space)
    assert space["total"]([1, 2]) == 3  # type: ignore[operator]


@pytest.mark.parametrize(
    "body", ["    return sum(xs)\n", "return sum(xs)\n", "if not xs:\n    return 0\nreturn sum(xs)\n"]
)
def test_a_body_is_put_behind_the_prompt(body: str) -> None:
    space: dict[str, object] = {}
    exec(function(f"```python\n{body}```", PROMPT, "total") or "", space)
    assert space["total"]([1, 2]) == 3  # type: ignore[operator]


def test_the_block_that_defines_the_function_wins() -> None:
    reply = "```python\ntotal([1])\n```\n```\ndef total(xs):\n    return 7\n```"
    assert "return 7" in (function(reply, PROMPT, "total") or "")


def test_no_code_and_broken_code() -> None:
    assert function("Sorry.", PROMPT, "total") is None
    assert "def total(" in (function("```python\ndef total(\n```", PROMPT, "total") or "")


def test_what_is_imported_from_the_future_stays_in_front() -> None:
    reply = (
        "```python\n'Adds.'\nfrom __future__ import annotations\ndef total(xs: Unknown): return sum(xs)\n```"
    )
    space: dict[str, object] = {}
    exec(joined(PROMPT, "\n\n", function(reply, PROMPT, "total") or ""), space)
    assert space["total"]([1, 2]) == 3  # type: ignore[operator]


@pytest.mark.parametrize("odd", ["\f", "\u2028", "\x85", "\x1c"])
def test_lines_end_where_python_ends_them(odd: str) -> None:
    code = f"import math\n\f\nsign = '{odd}'\ndef total(xs):\n    return sum(xs)\nprint(1)\n"
    kept = needed(code, "total")
    assert kept.endswith("def total(xs):\n    return sum(xs)\n")
    assert "".join(part.code for part in blocks(f"```python\n{code}```")) == code


def test_a_call_that_fills_a_table_is_kept() -> None:
    code = (
        "primes = []\ncount = 0\n\ndef build(n):\n    global count\n    for i in range(2, n):\n"
        "        if all(i % p for p in primes):\n            primes.append(i)\n            count += 1\n\n"
        "build(100)\n\ndef total(k):\n    primes.append(0)\n    return primes[k], count\n\n"
        "def main():\n    k = int(input())\n    print(total(k))\n\ntotal(3)\nmain()\n"
    )
    kept, space = needed(code, "total"), dict[str, object]()
    exec(kept, space)
    assert space["total"](3) == (7, 25)  # type: ignore[operator]
    assert not any(line in kept for line in ("main()", "\ntotal(3)"))


@pytest.mark.parametrize("deep", ["-" * 1200 + "1", "1 + " * 5000 + "1", "a" + ".b" * 3000, "(" * 5000])
def test_a_reply_that_nests_deeply_is_read_too(deep: str) -> None:
    assert function(f"```python\nx = {deep}\n```", PROMPT, "total")


@given(st.text(alphabet="`~ \npy", max_size=60))
def test_any_reply_is_read(reply: str) -> None:
    assert all(part.code in reply.replace("\r", "\n") for part in blocks(reply))
    block(reply, "python")
    function(reply, PROMPT, "total")
