"""Which documents are kept for measuring, and how often each of the others is seen."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from coderv2.data.document import Document, choice_seed
from coderv2.data.pipeline import Stage, matching


def hold_out(*patterns: str) -> Stage:
    """A stage that marks documents whose id matches, and lets them go first: what copies them is then the copy."""
    wanted = matching(*patterns)

    def stage(documents: Iterable[Document]) -> Iterator[Document]:
        others: list[Document] = []
        for document in documents:
            if wanted(document):
                yield dataclasses.replace(document, held_out=True)
            else:
                others.append(document)
        yield from others

    return stage


def repeat(times: Mapping[str, float], *, otherwise: float = 1.0) -> Stage:
    """A stage that repeats each document by its source: 2.5 is two copies and, for half of them, a third.

    Copies get an id of their own, so that they draw their own holes. 0.2 keeps a fifth of the documents; which
    ones depends on their ids alone.
    """

    def stage(documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            copies = _copies(document, times.get(document.source, otherwise))
            if copies == 0:
                yield document.drop("sampled out by the mix")
            for copy in range(copies):
                yield dataclasses.replace(document, id=f"{document.id}#{copy}")

    return stage


def _copies(document: Document, times: float) -> int:
    draw = choice_seed("mix", document.id) / 2**64
    return int(times) + (draw < times % 1)
