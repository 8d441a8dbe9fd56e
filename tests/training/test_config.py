import pytest

from coderv2.errors import InvalidValue
from coderv2.training.config import RunConfig, override


def test_settings_change_single_numbers_at_any_depth() -> None:
    run = override(RunConfig(steps=5), ["optim.lr=3e-4", "steps=7", "minutes=1.5"])
    assert (run.optim.lr, run.steps, run.minutes) == (3e-4, 7, 1.5)
    assert run.optim.muon_lr == RunConfig(steps=5).optim.muon_lr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.rate=1", "rate is not a setting; there are beta1"),
        ("optim=1", "optim is not a single setting"),
        ("seed.x=1", "seed.x is not a single setting"),
        ("optim.lr", "not of the form name=value"),
        ("optim.lr=fast", "lr must be a number"),
        ("rows_per_step=1.5", "rows_per_step must be a number"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(setting: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        override(RunConfig(steps=1), [setting])


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(InvalidValue, match="needs steps or minutes"):
        RunConfig()
