"""--device cuda where no GPU is."""

import pytest
import torch

from tests.cli.conftest import RunCommand


@pytest.mark.parametrize(
    "arguments",
    [["complete", "x"], ["infill"], ["chat"], ["serve", "--port", 0]],
)
def test_a_gpu_that_is_not_there_is_one_line_before_anything_is_fetched(
    command: RunCommand, monkeypatch: pytest.MonkeyPatch, arguments: list[object]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = command(*arguments, "-m", "nobody/nothing", "--device", "cuda", stdin="a<FILL>b")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("coderv2: no GPU that PyTorch can use here")
    assert len(outcome.err.splitlines()) == 1
