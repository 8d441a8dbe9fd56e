# ruff: noqa: E501  programs as they are
"""Defects4J and SWE-bench through stand-ins for their programs, which are on PATH for the time of a test."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from coderv2.errors import ServiceError, Unsupported
from coderv2.evaluation.asking import Place
from coderv2.evaluation.data import Data
from coderv2.evaluation.task import Attempt
from coderv2.evaluation.tasks import TASKS, defects4j
from coderv2.evaluation.tasks.swe_bench import cleaned
from tests.evaluation.fakes import FakeTools, data_with
from tests.evaluation.tasks import invented

_JAVA = "public class A {\n    // {\n    int twice(int x) {\n        if (x > 0) {\n            return x;\n        }\n        return 0;\n    }\n}\n"
_PATCH = "--- a/src/A.java\n+++ b/src/A.java\n@@ -4,3 +4,3 @@\n         if (x > 0) {\n-            return 2 * x;\n+            return x;\n         }\n"
_DEFECTS4J = f"""#!/bin/sh
case "$1" in
checkout) mkdir -p "$7/src"; printf '%s' '{_JAVA}' > "$7/src/A.java";;
compile) env >> "$HOME/environment"; cp src/A.java "$HOME/A.java"; if grep -q broken src/A.java; then echo "error: broken"; exit 1; fi;;
test) if grep -q "2 \\* x" src/A.java; then echo "Failing tests: 0"; else echo "Failing tests: 1"; fi;;
esac
"""
_FIX = "```java\nint twice(int x) { return 2 * x; }\n```"
_SWEBENCH = """#!/bin/sh
[ "$1" = eval ] || exit 9
if grep -q "crash" "$4"; then echo "docker is not there"; exit 3; fi
if grep -q "full" "$4"; then errors='"a__b-1"'; echo "docker: no space left on device"; fi
if grep -q "other" "$4"; then errors='"a__b-1"'; mkdir -p logs/a; echo ">>>>> Patch Apply Failed" > logs/a/run_instance.log; fi
if grep -q "endless" "$4"; then errors='"a__b-1"'; echo "Test timed out after 1800 seconds."; fi
if grep -q "+2" "$4"; then ids='"a__b-1"'; fi
echo "{\\"resolved_ids\\": [$ids], \\"error_ids\\": [$errors]}" > "coderv2.$6.json"
"""


@pytest.fixture(autouse=True)
def _programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"defects4j": _DEFECTS4J, "swebench": _SWEBENCH, "docker": "#!/bin/sh\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))


_TASKS = {**TASKS, "defects4j": replace(defects4j.TASKS[0], unprotected=True)}


def attempt(name: str, data: Data, reply: str) -> Attempt:
    task = _TASKS[name]
    (problem,) = task.problems(data)
    assert task.lacks() is None
    return asyncio.run(task.attempt(Place(name, problem), "chat", FakeTools([reply])))


@pytest.fixture
def bugs(tmp_path: Path) -> Data:
    files = {
        "Lang/patches/1.src.patch": _PATCH,
        "Lang/trigger_tests/1": "--- a.ATest::twice\n",
        "Lang/patches/2.src.patch": _PATCH * 2,
    }
    return data_with(tmp_path / "data", {"defects4j/defects4j-metadata.tar.gz": invented.archive(files)})


@pytest.mark.parametrize(
    ("fix", "reason"),
    [
        ("int twice(int x) { return 2 * x; }", "passed"),
        ("int twice(int x) { return 3 * x; }", "wrong"),
        ("int twice(int x) { broken }", "compile"),
    ],
)
def test_a_fixed_method_is_put_in_compiled_and_tested(bugs: Data, fix: str, reason: str) -> None:
    found = attempt("defects4j", bugs, f"```java\n{fix}\n```")
    assert found.score.reason == reason
    text = found.exchange.ask.shown[0]["content"]
    assert "int twice(int x) {\n        if (x > 0) {" in text
    assert "a.ATest::twice" in text
    assert "public class" not in text


def test_what_the_model_wrote_runs_with_the_users_rights_only_by_leave(bugs: Data) -> None:
    """It did without."""
    task = TASKS["defects4j"]
    (problem,) = task.problems(bugs)
    assert "--unprotected" in str(task.lacks())
    with pytest.raises(Unsupported, match="--unprotected"):
        asyncio.run(task.attempt(Place("defects4j", problem), "chat", FakeTools([_FIX])))


def test_the_framework_finds_no_keys(bugs: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java that the model wrote found all variables, those with keys too."""
    monkeypatch.setenv("CODERV2_API_KEY", "secret")
    attempt("defects4j", bugs, _FIX)
    assert "PATH=" in (tmp_path / "environment").read_text()
    assert "secret" not in (tmp_path / "environment").read_text()


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_the_rest_of_a_file_stays_as_it_is(
    bugs: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """ISO-8859-1 became question marks, and CR LF was lost."""
    source = _JAVA.replace("// {", "// \f{ Müller\x85").replace("\n", "\r\n").encode(encoding)
    (tmp_path / "source").write_bytes(source)
    script = _DEFECTS4J.replace(f"printf '%s' '{_JAVA}'", 'cat "$HOME/source"')
    (tmp_path / "bin" / "defects4j").write_text(script)
    found = attempt("defects4j", bugs, "```java\nint twice(int x) { return 2 * x; /* 二 */ }\n```")
    assert found.score.passed
    before, method, after = (tmp_path / "A.java").read_bytes().partition(b"int twice")
    assert source.startswith(before)
    assert method
    assert after.endswith(source[-6:])
    comment = "/* \\u4e8c */" if encoding == "latin-1" else "/* 二 */"
    assert comment in after.decode(encoding)
    assert "\r" not in found.exchange.ask.shown[0]["content"]


def test_a_reply_without_code_is_no_fix(bugs: Data) -> None:
    assert attempt("defects4j", bugs, "I do not know.").score.reason == "no code"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("+2", "passed"),
        ("+3", "not resolved"),
        ("+other", "patch does not apply"),
        ("+endless", "timeout"),
    ],
)
def test_a_patch_is_judged_by_the_harness(tmp_path: Path, line: str, reason: str) -> None:
    patch = f"Sure:\n```diff\ndiff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n{line}\n```\n"
    found = attempt("swe-bench-lite", invented.data(tmp_path / "data"), patch)
    assert found.score.reason == reason
    assert found.score.program.startswith("diff --git a/x b/x\n")
    assert found.score.program.endswith(f"{line}\n")


def test_a_harness_that_breaks_is_no_wrong_answer(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="docker is not there"):
        attempt("swe-bench-lite", invented.data(tmp_path / "data"), "diff --git a/crash b/crash\n+crash\n")


def test_an_error_of_the_harness_is_no_wrong_answer(tmp_path: Path) -> None:
    """A full disk under Docker was the model's failure."""
    with pytest.raises(ServiceError, match="no space left"):
        attempt("swe-bench-lite", invented.data(tmp_path / "data"), "diff --git a/x b/x\n+full\n")


def test_words_are_no_patch(tmp_path: Path) -> None:
    assert (
        attempt("swe-bench-lite", invented.data(tmp_path / "data"), "It is a bug.").score.reason == "no patch"
    )
    assert cleaned("--- a/x\n+++ b/x\n\n\n") == "--- a/x\n+++ b/x\n"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "defects4j on PATH: Defects4J 3" in str(_TASKS["defects4j"].lacks())
    assert "swebench and docker" in str(TASKS["swe-bench-lite"].lacks())
