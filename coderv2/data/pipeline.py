"""Stages in a row over documents; the dropped are kept with their reason."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from coderv2.data.document import Document

Stage = Callable[[Iterable[Document]], Iterator[Document]]
"""A generator function: documents in, documents out; it marks what it refuses (`Document.drop`)."""


def matching(*patterns: str) -> Callable[[Document], bool]:
    """Whether a document's id matches one of the regular expressions; of none, none does."""
    compiled = [re.compile(pattern) for pattern in patterns]
    return lambda document: any(pattern.search(document.id) for pattern in compiled)


def run(
    documents: Iterable[Document], stages: Sequence[Stage], dropped: list[Document]
) -> Iterator[Document]:
    """The documents that pass every stage, lazily; those refused go to the list `dropped`."""
    flow = _living(documents, dropped)
    for stage in stages:
        flow = _living(stage(flow), dropped)
    return flow


def reasons(dropped: Iterable[Document]) -> Counter[str]:
    """How many documents each reason took."""
    return Counter(document.dropped for document in dropped if document.dropped is not None)


def _living(documents: Iterable[Document], dropped: list[Document]) -> Iterator[Document]:
    for document in documents:
        if document.dropped is None:
            yield document
        else:
            dropped.append(document)
