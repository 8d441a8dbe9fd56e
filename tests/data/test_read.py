from itertools import islice
from pathlib import Path

import pytest

from coderv2.data import read


def test_the_standard_library_is_read_with_its_licence() -> None:
    documents = list(islice(read.standard_library(), 20))
    assert documents[0].id.startswith("python/")
    assert {item.licence for item in documents} == {"PSF-2.0"}
    assert [item.id for item in documents] == sorted(item.id for item in documents)


def test_a_package_is_read_as_it_is_installed() -> None:
    documents = {item.id: item for item in read.packages(["click"])}
    core = documents["click/click/core.py"]
    assert "class Command" in core.text
    assert (core.source, core.licence) == ("click", "BSD-3-Clause")


def test_dependencies_are_followed_and_do_not_hold_the_project_itself() -> None:
    needed = read.dependencies_of("coderv2")
    assert {"torch", "click", "starlette"} <= needed  # starlette comes through fastapi
    assert "coderv2" not in needed


@pytest.mark.parametrize(("name", "plain"), [("Typing_Extensions", "typing-extensions"), ("a.b--c", "a-b-c")])
def test_names_are_compared_in_canonical_form(name: str, plain: str) -> None:
    assert read.canonical(name) == plain


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"x = 1\r\n", "x = 1\n"),
        (b"\xef\xbb\xbfx = 1\n", "x = 1\n"),  # a byte order mark
        (b"BAD = '\xef\xbf\xbd'\n", "BAD = '\N{REPLACEMENT CHARACTER}'\n"),
        (b"# caf\xe9\r\n", None),
    ],
)
def test_utf8_is_read_and_other_bytes_are_dropped(
    content: bytes, text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_bytes(content)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    (document,) = read.standard_library()
    assert document.dropped == (None if text else "not UTF-8")
    assert document.text == (text or "")
