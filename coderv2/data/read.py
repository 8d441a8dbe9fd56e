"""Documents from Python source on this machine: the standard library, and what the project depends on."""

import dataclasses
import platform
import re
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from coderv2.data.document import Document
from coderv2.data.licences import stated_licence


def standard_library() -> Iterator[Document]:
    """Every `.py` file of the running Python's library, sorted by path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not {"site-packages", "dist-packages"} & set(relative.parts):
            yield _read(path, "python", relative.as_posix(), platform.python_version(), "PSF-2.0")


def packages(names: Iterable[str]) -> Iterator[Document]:
    """Every `.py` file of the named installed packages, package by package, sorted by path."""
    for name in sorted(names):
        package = distribution(name)
        licence = stated_licence(package)
        files = [file for file in package.files or [] if file.suffix == ".py" and ".." not in file.parts]
        for file in sorted(files, key=str):
            path = Path(str(package.locate_file(file)))
            if path.is_file():
                yield _read(path, canonical(name), file.as_posix(), package.version, licence)


def dependencies_of(root: str) -> set[str]:
    """Canonical names of the installed packages that `root` needs, its extras and their needs included."""
    seen: set[str] = set()
    waiting = _needs(distribution(root), with_extras=True)
    while waiting:
        name = waiting.pop()
        package = _installed(name)
        if package is not None and name not in seen:
            seen.add(name)
            waiting |= _needs(package, with_extras=False)
    return seen - {canonical(root)}


def canonical(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _needs(package: Distribution, *, with_extras: bool) -> set[str]:
    wanted = [line for line in package.requires or [] if with_extras or "extra ==" not in line]
    return {canonical(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in wanted}


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _read(path: Path, source: str, relative: str, version: str, licence: str) -> Document:
    document = Document(f"{source}/{relative}", "", source, version, licence)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return document.drop("not UTF-8")
    return dataclasses.replace(document, text=text.replace("\r\n", "\n"))
