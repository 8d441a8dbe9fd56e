"""What compiles and runs a language."""

import pytest

from coderv2.errors import InvalidValue
from coderv2.sandbox import toolchains, view
from coderv2.sandbox.languages import LANGUAGES, language
from coderv2.sandbox.limits import Limits


@pytest.mark.parametrize(
    ("short", "name"), [("C++", "cpp"), ("cs", "csharp"), ("sh", "bash"), ("TypeScript", "typescript")]
)
def test_short_names(short: str, name: str) -> None:
    assert language(short).name == name


def test_a_missing_program_means_no_toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchains, "PATH", "/nonexistent")
    toolchains.find.cache_clear()
    try:
        assert toolchains.find("cpp") is None
    finally:
        toolchains.find.cache_clear()
    assert view.PATH != "/nonexistent"


def test_the_proof_stands_after_the_last_test_and_within_main() -> None:
    tests = '}\nint main() {\n    assert(f() == "}");\n}\n'
    source = toolchains.with_tests("cpp", "int f() {", tests, "word")
    assert source.startswith("int f() {\n}\nint main() {")
    assert source.endswith('__builtin_puts("wo" "rd");\n}\n')
    with pytest.raises(InvalidValue, match="must close"):
        toolchains.with_tests("java", "", "}", "word")


@pytest.mark.parametrize("name", [each.name for each in LANGUAGES])
def test_no_text_of_a_program_holds_the_secret_word(name: str) -> None:
    source = toolchains.with_tests(name, "", "}}", "word")
    assert "word" not in source
    assert source.index("wo") < source.index("rd")


@pytest.mark.parametrize("end", ["}", "} ?>", "}\n?>\n", "}\n  ?>\n\n"])
def test_a_php_program_that_closes_its_tag_is_followed_by_code(end: str) -> None:
    source = toolchains.with_tests("php", f"<?php\nfunction f() {{ {end}", "f();", "word")
    assert "?>" not in source


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("class A { }\npublic class B { public static void main(String[] a) { } }", "B"),
        ("class A { static void main(String[] a) { } class B { } }", "A"),
        ("void main() { }", "Main"),
    ],
)
def test_the_class_that_holds_main(source: str, name: str) -> None:
    assert toolchains.main_class(source) == name


def test_runtimes_are_told_to_stay_within_the_limit() -> None:
    java = toolchains.Toolchain(language("java"))
    assert "-Xmx384m" in java.run("class A { static void main() }", Limits(memory_bytes=512 << 20))
