"""The file of keys."""

from pathlib import Path

import pytest

from coderv2.errors import InvalidValue
from coderv2.server.keys import Keys, digest_of, new_key, toml_of

DIGEST = digest_of("secret")


def _file(folder: Path, text: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_new_key_is_found_again_and_others_are_not(tmp_path: Path) -> None:
    secret = new_key()
    text = toml_of('al"ice', digest_of(secret)) + "\nrequests_per_minute = 5\ncontrol_tokens = false\n"
    keys = Keys.from_file(_file(tmp_path, text))
    found = keys.find(secret)
    assert found is not None
    assert (found.name, found.requests_per_minute, found.control_tokens) == ('al"ice', 5, False)
    for wrong in ("", "sk-", secret[:-1], secret + "x", digest_of(secret), "\udcff"):
        assert keys.find(wrong) is None
    assert secret not in text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no"),
        ("keys = 5", "holds no"),
        ("not toml", "cannot be read"),
        ("keys = [5]", "no table"),
        (f'[[keys]]\nsha256 = "{DIGEST}"', "needs a name"),
        ('[[keys]]\nname = "a"\nsha256 = "secret"', "64 hex digits"),
        (f'[[keys]]\nname = "a"\nsha256 = "{DIGEST}"\ncolour = 1', "colour is not known"),
        (f'[[keys]]\nname = "a"\nsha256 = "{DIGEST}"\nconcurrent = 0', "concurrent = 0"),
        (f'[[keys]]\nname = "a"\nsha256 = "{DIGEST}"\nconcurrent = true', "concurrent = True"),
        (2 * f'[[keys]]\nname = "a"\nsha256 = "{DIGEST}"\n', "share a name"),
    ],
)
def test_a_bad_file_says_where_and_what(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidValue, match=problem) as caught:
        Keys.from_file(_file(tmp_path, text))
    assert "keys.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_told_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"no such file; `coderv2 key NAME >> .*keys.toml` makes it"):
        Keys.from_file(tmp_path / "keys.toml")


def test_a_file_as_windows_writes_it_is_read(tmp_path: Path) -> None:
    """A byte order mark was "Invalid statement (at line 1, column 1)"."""
    key = new_key()
    (tmp_path / "keys.toml").write_text("\ufeff" + toml_of("alice", digest_of(key)), "utf-8", newline="\r\n")
    found = Keys.from_file(tmp_path / "keys.toml").find(key)
    assert found is not None
    assert found.name == "alice"
