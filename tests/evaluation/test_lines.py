"""The first line of code in a reply."""

import pytest

from coderv2.evaluation.lines import compared, first_code_line


@pytest.mark.parametrize(
    ("text", "language", "line"),
    [
        ("\n  x = 1\ny = 2\n", "python", "x = 1"),
        ("# one\n\n# two\nx = 1", "python", "x = 1"),
        ('"""Says\nmuch."""\nx = 1', "python", "x = 1"),
        ('r"""One line."""\nx = 1', "python", "x = 1"),
        ("'''Says\n\nmuch.\n'''\nx = 1", "python", "x = 1"),
        ('"""Never closed\nx = 1', "python", ""),
        ('"text".join(x)', "python", '"text".join(x)'),
        ("/*\n plain words\n*/\nint x = 1;", "java", "int x = 1;"),
        ("/** a */ int x = 1; // b", "java", "int x = 1; // b"),
        ("// a\n/* b */\n\n// c\nint x = 1;", "java", "int x = 1;"),
        ("/* never closed\nlet x = 1;", "javascript", ""),
        ("", "python", ""),
    ],
)
def test_comments_of_several_lines_are_no_code(text: str, language: str, line: str) -> None:
    """The second line of a comment, or the first of a docstring, was the line of code."""
    assert first_code_line(text, language) == line


def test_lines_are_compared_without_their_spaces() -> None:
    assert compared(" x  =  1 ", "x = 1").passed
    assert compared("x = 2", "x = 1").others["edit similarity"] == pytest.approx(0.8)
