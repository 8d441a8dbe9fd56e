"""The public surface: names, laziness, errors drawn as they are."""

import re
import subprocess
import sys

import pytest

import coderv2
from coderv2 import errors, paths
from coderv2.errors import CoderV2Error, InvalidValue


def test_public_names_are_sorted_and_all_importable() -> None:
    assert coderv2.__all__ == sorted(
        coderv2.__all__, key=lambda name: (not name.isupper(), name.islower(), name)
    )
    for name in coderv2.__all__:
        assert getattr(coderv2, name).__name__ == name
        assert name in dir(coderv2)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        coderv2.nonsense  # noqa: B018


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, coderv2; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_the_drawn_error_tree_is_the_real_one() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"^ {4}[│├└─ ]*(\w+)", errors.__doc__, re.MULTILINE)
    real = [
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, CoderV2Error)
    ]
    assert drawn == real


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", ""])
def test_bad_environment_variable_is_an_error_naming_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CODERV2_THREADS", value)
    with pytest.raises(InvalidValue, match="CODERV2_THREADS"):
        paths.threads()


def test_threads_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODERV2_THREADS", "3")
    assert paths.threads() == 3
