"""The files that a program finds in its folder."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from coderv2.errors import InvalidValue


def pipe() -> tuple[int, int]:
    """Whose ends a program may open by name too (`/dev/stdout`), whoever it is."""
    reader, writer = os.pipe()
    os.fchmod(writer, 0o666)
    return reader, writer


def contents(files: Mapping[str, str | bytes]) -> dict[str, bytes]:
    """Files as bytes, by their paths. Raises InvalidValue for a path that leads out of the folder."""
    for path in files:
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\0" in path:
            raise InvalidValue(f"a program's file must lie in its folder, not at {path!r}", param="files")
    return {
        path: data.encode(errors="surrogatepass") if isinstance(data, str) else data
        for path, data in files.items()
    }


def inner_folders(files: Iterable[str]) -> list[str]:
    """The folders within the folder, each after the one that holds it."""
    return sorted({str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."})


def write(root: str, files: Mapping[str, bytes]) -> None:
    """Lays the files out below an empty folder, open to everybody (with a umask of 0), programs too."""
    for folder in inner_folders(files):
        Path(root, folder).mkdir(0o777)
    for path, data in files.items():
        fd = os.open(f"{root}/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777)
        pour(data, fd)
        os.close(fd)


def pour(data: bytes | memoryview, fd: int) -> None:
    """All of the data into a file, with no buffer between."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
