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
_FREE_TEXT = {"apache 2.0": "Apache-2.0", "apache 2.0 license": "Apache-2.0", "bsd": "BSD-3-Clause"}


def stated_licence(distribution: Distribution) -> str:
    """The SPDX expression of a package: its expression, else its classifiers, else its licence line, else ""."""
    metadata = distribution.metadata
    for expression in metadata.get_all("License-Expression") or []:
        return str(expression)
    labels = [label.rpartition(" :: ")[2] for label in metadata.get_all("Classifier") or []]
    if named := sorted({_CLASSIFIERS[label] for label in labels if label in _CLASSIFIERS}):
        return " AND ".join(named)
    line = "".join(metadata.get_all("License") or []).strip()
    return _FREE_TEXT.get(line.lower(), line if "\n" not in line else "")


def is_permissive(expression: str) -> bool:
    """Every part joined by AND must be allowed; of parts joined by OR, one is enough."""
    alternatives = re.split(r"\s+OR\s+", expression.replace("(", "").replace(")", ""))
    return any(
        all(part.strip() in PERMISSIVE for part in re.split(r"\s+AND\s+", alternative))
        for alternative in alternatives
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
