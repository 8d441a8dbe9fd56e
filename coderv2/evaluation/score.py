"""Numbers from samples: pass@k without bias, error bars, bootstrap."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ROUNDS = 1000
KS = (1, 5, 10, 25, 50, 100)
_Z = 1.959964  # 95 %


class Unmeasured(ValueError):
    """Raised where samples make no number: none, which is not zero."""


@dataclass(frozen=True)
class Item:
    """One sample as far as the numbers go."""

    problem: str
    index: int
    group: str
    value: float
    reason: str
    finish_reason: str = "stop"
    others: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figures:
    """A task's number, and how sure it is."""

    metric: str
    value: float
    n: int
    """Problems."""
    samples: int
    stderr: float
    low: float
    """Of the 95 % interval."""
    high: float
    others: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    truncated: int = 0
    """Replies that were cut at max_tokens."""
    asked: int = 0
    """Problems that were asked; those that no judge rated are among them, but not in `n`."""
    there: int = 0
    """Problems of the data; more than were asked where there was a limit."""

    def as_json(self) -> dict[str, Any]:
        """For summary.json; shares are between 0 and 1."""
        return {name: _plain(value) for name, value in vars(self).items()}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples is right, estimated from `correct` of n without bias.

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.
    """
    if n - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - correct + 1, n + 1))


def mean(items: Sequence[Item], metric: str) -> Figures:
    """Mean over problems of each one's mean over samples; Wilson's interval where each is all or nothing."""
    values = _values(items)
    average, error = _mean_and_error(values)
    low, high = _interval(values, average, error, len(values))
    return Figures(
        metric, average, len(values), len(items), error, low, high,
        others=_others(items), groups=_groups(items), **_counts(items),
    )  # fmt: skip


def pass_rate(items: Sequence[Item], metric: str = "pass@1") -> Figures:
    """`mean`, with pass@k for every usual k that the samples allow."""
    figures = mean(items, metric)
    tallies = [
        (len(group), sum(item.value == 1.0 for item in group)) for group in _by_problem(items).values()
    ]
    fewest = min((n for n, _ in tallies), default=0)
    more = {}
    for k in KS[1:]:
        if k <= fewest:
            more[f"pass@{k}"], more[f"pass@{k} stderr"] = _mean_and_error(
                [pass_at_k(n, c, k) for n, c in tallies]
            )
    return _with(figures, others={**figures.others, **more})


def macro(items: Sequence[Item], metric: str) -> Figures:
    """The plain mean over groups (subjects, tasks, levels); the mean over items beside it."""
    figures = mean(items, metric)
    value, error, low, high = stratified(items, lambda groups: dict.fromkeys(groups, 1.0))
    others = {**figures.others, "over items": figures.value}
    return _with(figures, value=value, stderr=error, low=low, high=high, others=others)


def stratified(
    items: Sequence[Item], weigh: Callable[[Collection[str]], Mapping[str, float]]
) -> tuple[float, float, float, float]:
    """The weighted mean of groups' means over problems, its standard error, and the ends of its 95 % interval.

    Of few problems a group's variance is uncertain, of one unknown. So that of all groups together counts as one more
    problem of each, and that of all problems, whatever their group, as one more of those.
    """
    groups = {name: _values(group) for name, group in _by_group(items).items()}
    weights = weigh(groups)
    total = math.fsum(weights.values())
    every = [value for values in groups.values() for value in values]
    spread = statistics.variance(every) if len(every) > 1 else 0.0
    within = (sum(map(_squares, groups.values())) + spread) / (len(every) - len(groups) + 1)
    shares = {name: (weights[name] / total) ** 2 / len(values) for name, values in groups.items()}
    average = math.fsum(weights[name] * statistics.fmean(v) for name, v in groups.items()) / total
    error = math.sqrt(sum(shares[name] * (_squares(v) + within) / len(v) for name, v in groups.items()))
    n = average * (1 - average) / error**2 if error else 1 / sum(shares.values())
    return average, error, *_interval(every, average, error, n)


def bootstrap(
    items: Sequence[Item], row: Callable[[Item], Sequence[float]], statistic: Callable[[Array], float]
) -> tuple[float, float, float, float]:
    """The statistic, its standard error, and the ends of its 95 % interval, over resamples of problems.

    A problem's row, or rows where it has several samples, stay together.
    """
    rows = [np.array([row(item) for item in group], np.float64) for group in _by_problem(items).values()]
    draw = np.random.default_rng(0)
    drawn = sorted(
        statistic(np.concatenate([rows[i] for i in draw.integers(len(rows), size=len(rows))]))
        for _ in range(ROUNDS)
    )
    return (
        statistic(np.concatenate(rows)),
        statistics.stdev(drawn),
        drawn[int(0.025 * ROUNDS)],
        drawn[int(0.975 * ROUNDS) - 1],
    )


def wilson(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    centre, scale = share + _Z**2 / (2 * n), 1 + _Z**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value that two models which disagree so often are equally good."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, float(2 * sum(math.comb(n, i) for i in range(fewer + 1)) / 2**n))


def _values(items: Iterable[Item]) -> list[float]:
    """Each problem's mean over its samples."""
    return [statistics.fmean(item.value for item in group) for group in _by_problem(items).values()]


def _squares(values: Sequence[float]) -> float:
    """Of the distances from their mean."""
    centre = statistics.fmean(values)
    return sum((value - centre) ** 2 for value in values)


def _by_problem(items: Iterable[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        found[item.problem].append(item)
    return found


def _by_group(items: Iterable[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        found[item.group].append(item)
    return found


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return math.nan, math.nan
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.fmean(values), spread / math.sqrt(len(values))


def _interval(values: Sequence[float], average: float, error: float, n: float) -> tuple[float, float]:
    """`n` problems of equal weight would make that error."""
    if values and set(values) <= {0.0, 1.0}:
        return wilson(average, n)
    low, high = average - _Z * error, average + _Z * error
    if all(0.0 <= value <= 1.0 for value in values):  # no share lies outside; a judge's rating may
        return max(0.0, low), min(1.0, high)
    return low, high


def _others(items: Sequence[Item]) -> dict[str, float]:
    names = dict.fromkeys(name for item in items for name in item.others)
    return {name: statistics.fmean(i.others[name] for i in items if name in i.others) for name in names}


def _groups(items: Sequence[Item]) -> dict[str, float]:
    grouped = _by_group(items)
    return (
        {}
        if grouped.keys() <= {""}
        else {n: statistics.fmean(i.value for i in g) for n, g in grouped.items()}
    )


def _counts(items: Sequence[Item]) -> dict[str, Any]:
    return {
        "reasons": dict(Counter(item.reason for item in items).most_common()),
        "truncated": sum(item.finish_reason == "length" for item in items),
    }


def _with(figures: Figures, **changed: Any) -> Figures:
    return Figures(**{**vars(figures), **changed})


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value
