import pytest

from coderv2.data.licences import is_permissive, permissive_only, stated_licence
from tests.data.fakes import FakeDistribution, document


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        (["License-Expression: MIT", "License: GPL"], "MIT"),
        (["Classifier: License :: OSI Approved :: BSD License"], "BSD-3-Clause"),
        (["License: Apache 2.0 License"], "Apache-2.0"),
        (["License: LGPL"], "LGPL"),
        ([], ""),
        (
            [
                "Classifier: License :: OSI Approved :: MIT License",
                "Classifier: License :: OSI Approved :: Apache Software License",
            ],
            "Apache-2.0 AND MIT",
        ),
        (
            [
                "Classifier: License :: OSI Approved :: MIT License",
                "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)",
            ],
            "GNU General Public License v3 (GPLv3) AND MIT",
        ),
        (
            ["Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", "License: MIT"],
            "GNU General Public License v3 (GPLv3)",
        ),
        (["Classifier: License :: OSI Approved", "License: MIT"], "MIT"),
    ],
)
def test_the_licence_is_what_the_metadata_states(lines: list[str], licence: str) -> None:
    assert stated_licence(FakeDistribution(*lines)) == licence


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MIT AND BSD-3-Clause", True),
        ("MIT AND MPL-2.0", False),
        ("GPL-3.0 OR MIT", True),
        ("(Apache-2.0 WITH LLVM-exception) AND MIT", True),
        ("(MIT OR GPL-2.0-only) AND GPL-3.0-only", False),
        ("GPL-3.0-only AND (GPL-2.0-only OR MIT)", False),
        ("(MIT OR (GPL-2.0-only AND GPL-3.0-only)) AND (ISC)", True),
        ("GPL-3.0-only OR MIT AND GPL-2.0-only", False),
        ("MIT (X11)", False),
        ("MIT OR (", False),
        ("", False),
    ],
)
def test_and_needs_every_part_and_or_needs_one(expression: str, allowed: bool) -> None:
    assert is_permissive(expression) is allowed


def test_unknown_and_strict_licences_are_dropped_with_a_reason() -> None:
    papers = [document(licence="MIT"), document(licence=""), document(licence="MPL-2.0")]
    assert [item.dropped for item in permissive_only(papers)] == [
        None,
        "licence unknown",
        "licence not permissive: MPL-2.0",
    ]
