from coderv2.data.document import choice_seed
from tests.data.fakes import document


def test_dropping_keeps_the_document_and_the_reason() -> None:
    dropped = document("text").drop("too short")
    assert (dropped.text, dropped.dropped) == ("text", "too short")


def test_choices_depend_on_their_parts_alone() -> None:
    assert choice_seed("hole", "a/b.py", 1) == 9985422252328107087
    assert choice_seed("hole", "a/b.py", 2) != choice_seed("hole", "a/b.py", 1)
    assert choice_seed("ab", "c") != choice_seed("a", "bc")
