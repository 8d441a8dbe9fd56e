"""The child that compares formulas."""

import pytest

from coderv2.text import symbolic
from coderv2.text.symbolic import Comparer


def test_a_comparison_that_hangs_counts_as_different_and_the_next_one_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    comparer = Comparer()
    try:
        assert comparer.equal("1", "1.0")
        monkeypatch.setattr(symbolic, "SECONDS", 0.0)
        assert not comparer.equal("(x+1)^7", "x^7")
        monkeypatch.undo()
        assert comparer.equal("2x", "x+x")
    finally:
        comparer.close()
