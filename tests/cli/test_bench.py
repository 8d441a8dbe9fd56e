"""`coderv2 bench` says what it needs."""

import pytest
import torch

from coderv2.cli.main import run


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["bench"], ["bench", "--tune"]):
        assert run(arguments) == 2
        assert "no GPU here" in capsys.readouterr().err
