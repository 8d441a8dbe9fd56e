"""Which licence a package's metadata states, and whether we may train on it. Unknown means no."""

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution

from coderv2.data.document import Document

PERMISSIVE = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "ISC",
        "MIT",
        "PSF-2.0",
        "Zlib",
    }
)

_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_INNERMOST = re.compile(r"\(([^()]*)\)")
_FREE_TEXT = {"apache 2.0": "Apache-2.0", "apache 2.0 license": "Apache-2.0", "bsd": "BSD-3-Clause"}


def stated_licence(distribution: Distribution) -> str:
    """The SPDX expression of a package: its expression, else its classifiers, else its licence line, else "".

    A classifier that is not among `_CLASSIFIERS` stands for itself, and so is not permissive.
    """
    metadata = distribution.metadata
    for expression in metadata.get_all("License-Expression") or []:
        return str(expression)
    classifiers = [item for item in metadata.get_all("Classifier") or [] if item.startswith("License :: ")]
    labels = {item.rpartition(" :: ")[2] for item in classifiers} - {"OSI Approved"}
    if named := sorted(_CLASSIFIERS.get(label, label) for label in labels):
        return " AND ".join(named)
    line = "".join(metadata.get_all("License") or []).strip()
    return _FREE_TEXT.get(line.lower(), line if "\n" not in line else "")


def is_permissive(expression: str) -> bool:
    """Every part joined by AND must be allowed; of parts joined by OR, one is enough. AND binds tighter."""
    solved = _INNERMOST.sub(_verdict, expression)
    while solved != expression:
        expression, solved = solved, _INNERMOST.sub(_verdict, solved)
    return not {"(", ")"} & set(expression) and _allowed(expression)


def _verdict(brackets: re.Match[str]) -> str:
    """One word in place of what is in brackets."""
    return "MIT" if _allowed(brackets[1]) else "refused"


def _allowed(expression: str) -> bool:
    """Of an expression without brackets."""
    return any(
        all(part.strip() in PERMISSIVE for part in re.split(r"\s+AND\s+", alternative))
        for alternative in re.split(r"\s+OR\s+", expression)
    )


def permissive_only(documents: Iterable[Document]) -> Iterator[Document]:
    """Drops what carries no licence, or one outside `PERMISSIVE`."""
    for document in documents:
        if not document.licence:
            yield document.drop("licence unknown")
        elif not is_permissive(document.licence):
            yield document.drop(f"licence not permissive: {document.licence}")
        else:
            yield document
