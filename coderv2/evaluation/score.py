"""Numbers from samples: pass@k without bias, error bars, bootstrap."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    by_problem = _by_problem(items)
    values = [statistics.fmean(item.value for item in group) for group in by_problem.values()]
    average, error = _mean_and_error(values)
    low, high = _interval(values, average, error)
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
    """The plain mean over groups (subjects, tasks, levels), its error by bootstrap; the mean over items beside it."""
    figures = mean(items, metric)
    values = {name: [i.value for i in group] for name, group in _by_group(items).items()}
    average, error, low, high = bootstrap(values, _mean_of_means)
    others = {**figures.others, "over items": figures.value}
    return _with(figures, value=average, stderr=error, low=low, high=high, others=others)


def bootstrap(
    values: Mapping[str, Sequence[Any]], statistic: Callable[[Mapping[str, Array]], float]
) -> tuple[float, float, float, float]:
    """The statistic, its standard error, and the ends of its 95 % interval, over resamples within each group.

    A group's values may be rows of several numbers, which stay together.
    """
    draw = np.random.default_rng(0)
    arrays = {name: np.asarray(group, dtype=np.float64) for name, group in values.items()}
    drawn = sorted(
        statistic({name: draw.choice(array, len(array)) for name, array in arrays.items()})
        for _ in range(ROUNDS)
    )
    return (
        statistic(arrays),
        statistics.stdev(drawn),
        drawn[int(0.025 * ROUNDS)],
        drawn[int(0.975 * ROUNDS) - 1],
    )


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    centre, scale = share + _Z**2 / (2 * n), 1 + _Z**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value that two models which disagree so often are equally good."""
    n, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, float(2 * sum(math.comb(n, i) for i in range(fewer + 1)) / 2**n))


def _mean_of_means(groups: Mapping[str, Array]) -> float:
    return statistics.fmean(float(group.mean()) for group in groups.values())


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


def _interval(values: Sequence[float], average: float, error: float) -> tuple[float, float]:
    if values and set(values) <= {0.0, 1.0}:
        return wilson(average, len(values))
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
