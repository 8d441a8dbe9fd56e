"""The training loop: rows in, updates out; the same for pretraining and fine-tuning."""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from coderv2.data.loader import Loader
from coderv2.data.shards import Shard
from coderv2.errors import BadCheckpoint
from coderv2.log import logger
from coderv2.model.transformer import Transformer
from coderv2.training import checkpoint
from coderv2.training.checkpoint import Progress, Record, State
from coderv2.training.config import RunConfig, settings
from coderv2.training.losses import row_loss
from coderv2.training.monitor import RunLog, SpikeAlarm
from coderv2.training.optim import Optimiser, learning_rate


@dataclass(frozen=True)
class StepResult:
    """One step's means per trained token."""

    loss: float
    balance: float
    norm: float
    tokens: int
    skipped: bool


def train(model: Transformer, shard: Shard, config: RunConfig, folder: Path) -> Progress:
    """Trains `model` in place; `folder` gets `log.jsonl` and the run's state, and is resumed from if it has one.

    A run may be resumed with other settings, which is said, but not with another model or shard: BadCheckpoint.
    """
    optimiser, record = Optimiser(model, config.optim), Record(settings(config), shard.fingerprint)
    progress = _resume(folder, optimiser, record)
    loader = Loader(shard, config.row_tokens, seed=config.seed, state=progress.loader)
    log, alarm = RunLog(folder / "log.jsonl"), SpikeAlarm(config.optim.spike, progress.norms)
    clock = time.monotonic() - progress.seconds
    done = share_done(progress, config)
    if done < 1:
        log.write(step=progress.step, **dataclasses.asdict(record))
    while done < 1:
        rate = learning_rate(config.optim, progress.step, done)
        result = _step(model, loader, optimiser, config, alarm, rate)
        progress.step += 1
        progress.tokens += result.tokens
        progress.loader = loader.state
        progress.seconds = time.monotonic() - clock
        done = share_done(progress, config)
        if progress.step == 1 or progress.step % config.log_every == 0 or result.skipped or done >= 1:
            _report(log, progress, result, rate)
        if progress.step % config.save_every == 0:
            checkpoint.save(folder, State(progress, optimiser.state(), record))
    checkpoint.save(folder, State(progress, optimiser.state(), record))
    return progress


def share_done(progress: Progress, config: RunConfig) -> float:
    """How much of the run is over, by steps or by the clock, whichever is further; 1 or more: stop."""
    by_clock = _share(progress.seconds, None if config.minutes is None else 60 * config.minutes)
    return max(_share(progress.step, config.steps), by_clock)


def _share(done: float, wanted: float | None) -> float:
    if wanted is None:
        return 0.0
    return done / wanted if wanted else 1.0


def _step(
    model: Transformer,
    loader: Loader,
    optimiser: Optimiser,
    config: RunConfig,
    alarm: SpikeAlarm,
    rate: float,
) -> StepResult:
    nats, targets, tokens, balance = 0.0, 0, 0, 0.0
    for _ in range(config.rows_per_step):
        row = loader.next_row()
        result = row_loss(model, row, alpha=config.balance_alpha)
        result.loss.backward()
        optimiser.gather()
        nats += result.nats
        targets += result.targets
        tokens += sum(map(len, row))
        balance += result.balance / config.rows_per_step
    norm = optimiser.scale_gradients(1 / max(targets, 1))
    skipped = alarm.rings(norm)
    if skipped:
        optimiser.forget()
    else:
        optimiser.scale_gradients(min(1.0, config.optim.clip / (norm + 1e-6)))
        optimiser.step(rate)
    return StepResult(nats / max(targets, 1), balance, norm, tokens, skipped)


def _resume(folder: Path, optimiser: Optimiser, record: Record) -> Progress:
    saved = checkpoint.load(folder)
    if saved is None:
        return Progress()
    if saved.record.shard != record.shard:
        raise BadCheckpoint(
            f"{folder} was trained on another shard; remove its {checkpoint.FILE} to start over"
        )
    before, now = saved.record.settings, record.settings
    if changed := [
        f"{name}={now[name]} (was {before.get(name)})" for name in now if now[name] != before.get(name)
    ]:
        logger.warning("the run goes on with other settings: %s", ", ".join(changed))
    optimiser.load(saved.optimiser)
    return saved.progress


def _report(log: RunLog, progress: Progress, result: StepResult, rate: float) -> None:
    log.write(
        step=progress.step,
        loss=result.loss,
        balance=result.balance,
        norm=result.norm,
        rate=rate,
        tokens=progress.tokens,
        seconds=progress.seconds,
        tokens_per_second=progress.tokens / max(progress.seconds, 1e-9),
        skipped=int(result.skipped),
    )
