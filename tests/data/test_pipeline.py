from collections.abc import Iterable, Iterator

from coderv2.data import pipeline
from coderv2.data.document import Document
from tests.data.fakes import document


def refuse_b(documents: Iterable[Document]) -> Iterator[Document]:
    for item in documents:
        yield item.drop("is b") if item.text == "b" else item


def never_sees_b(documents: Iterable[Document]) -> Iterator[Document]:
    for item in documents:
        assert item.text != "b"
        yield item


def test_a_dropped_document_reaches_no_later_stage_and_is_kept_with_its_reason() -> None:
    dropped: list[Document] = []
    kept = pipeline.run([document("a"), document("b"), document("c")], [refuse_b, never_sees_b], dropped)
    assert [item.text for item in kept] == ["a", "c"]
    assert [(item.text, item.dropped) for item in dropped] == [("b", "is b")]


def test_stages_run_lazily() -> None:
    def endless() -> Iterator[Document]:
        while True:
            yield document("a")

    assert next(pipeline.run(endless(), [refuse_b], [])).text == "a"


def test_reasons_are_counted() -> None:
    assert pipeline.reasons([document().drop("x"), document().drop("x"), document().drop("y")]) == {
        "x": 2,
        "y": 1,
    }
