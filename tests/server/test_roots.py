"""One path below every root."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.server.roots import below_root

ROOTS = ["", "/v1", "/beta", "/v1/beta", "/anthropic", "/anthropic/v1"]


@pytest.mark.parametrize(
    ("path", "rest", "beta"),
    [
        ("/v1/completions", "/completions", False),
        ("/beta/completions/", "/completions", True),
        ("//v1//beta//completions", "/completions", True),
        ("/anthropic/v1/messages", "/messages", False),
        ("/v1", "/", False),
        ("/", "/", False),
        ("/v1beta/server_setting", "/v1beta/server_setting", False),
        ("/betaware", "/betaware", False),
        ("/v1/v1/models", "/v1/models", False),
        ("/beta/v1/models", "/v1/models", True),
    ],
)
def test_what_is_left_of_a_path(path: str, rest: str, beta: bool) -> None:
    assert below_root(path) == (rest, beta)


@given(st.sampled_from(ROOTS), st.text("ab/.%v1", max_size=12))
def test_a_root_changes_nothing_about_what_is_left(root: str, tail: str) -> None:
    path = f"{root}/x{tail}"
    assert below_root(path)[0] == below_root(f"/x{tail}")[0]
    assert below_root(path)[1] == root.endswith("beta")
