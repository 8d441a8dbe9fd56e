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
        ("steps=-1", "steps must be 0 or more"),
        ("minutes=nan", "minutes must be 0 or more"),
        ("minutes=inf", "minutes must be 0 or more"),
        ("seed=-1", "seed must be 0 or more"),
        ("rows_per_step=0", "rows_per_step must be 1 or more"),
        ("row_tokens=1", "row_tokens must be 2 or more"),
        ("save_every=0", "save_every must be 1 or more"),
        ("log_every=0", "log_every must be 1 or more"),
        ("optim.muon_lr=nan", "muon_lr must be 0 or more"),
        ("optim.lr=-1", "lr must be 0 or more"),
        ("optim.beta2=1", "beta2 must be at least 0 and below 1"),
        ("optim.clip=0", "clip must be above 0"),
        ("optim.final=2", "final must be between 0 and 1"),
        ("optim.spike=0.5", "spike must be 1 or more"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(setting: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        override(RunConfig(steps=1), [setting])


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(InvalidValue, match="needs steps or minutes"):
        RunConfig()
