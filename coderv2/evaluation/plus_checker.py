"""Runs inside the sandbox, as a program of its own: judges a function against a reference by what both return.

Standard input brings the questions (pickled, after their length), then what only the judge may know: the reference's
answers, and a secret word. The candidate runs in a child process that was forked before the judge read those, and that
cannot look into its parent; it sends plain values back. So it can neither read the answers nor forge a verdict, and if
it stops the judge to gain time, that is seen.

What counts as equal is what evalplus counts: `==`, floats within a tolerance, and a few tasks with their own rules.
"""

import ctypes
import io
import math
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NoReturn

# For one call: at least; times the reference's; for all calls.
LEAST_SECONDS, FACTOR, MOST_SECONDS = 1.0, 4.0, 60.0
RELATIVE, FLOAT_TOLERANCE = 1e-7, 1e-6
LONG = 50_000  # letters or parts
PARTS = ("base", "plus")
UNORDERED = {
    "Diff",
    "common_in_nested_lists",
    "extract_singly",
    "find_char_long",
    "find_dissimilar",
    "intersection_array",
    "larg_nnum",
    "similar_elements",
}
FOUND_OR_NOT = {"check_str", "text_match_three", "text_starta_endb"}
_PLAIN = (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)
_EXACT = {*_PLAIN, type(None)}
_NAMES = {kind.__name__ for kind in (*_PLAIN, range, object)}
_NUMBERS = {("decimal", "Decimal"), ("fractions", "Fraction")}
_PATIENCE, _PAUSE = 8, 0.0005
# Seconds of one wait; one that takes longer than the second was a stop of this process.
_LOOK, _STANDSTILL = 0.1, 1.0
_NOT_DUMPABLE = 4


class Wrong(Exception):
    """The candidate returned something else."""


class Broken(Exception):
    """The candidate raised, or ended."""


class Late(Exception):
    """The candidate took too long."""


# --- what counts as equal -----------------------------------------------------------------------------------------


def compare(
    entry: str, question: list[Any], answer: Any, is_plain: bool, wanted: Any, tolerance: float
) -> float:
    """Raises Wrong. Returns the tolerance for what follows: once floats were wanted it stays."""
    equal = _special(entry, question, answer, wanted, tolerance)
    if entry == "find_zero":
        return _held(equal, tolerance)
    if tolerance == 0 and _are_floats(wanted):
        tolerance = FLOAT_TOLERANCE
    if not equal and tolerance != 0:
        same_kind = is_plain and type(answer) is type(wanted)
        equal = same_kind and _same_length(answer, wanted) and all_close(answer, wanted, tolerance)
    return _held(equal, tolerance)


def _held(equal: bool, tolerance: float) -> float:
    if not equal:
        raise Wrong
    return tolerance


def _special(entry: str, question: list[Any], answer: Any, wanted: Any, tolerance: float) -> bool:
    """`==`, but for the tasks that accept more than one answer."""
    if entry == "find_zero":
        return bool(abs(sum(c * math.pow(answer, i) for i, c in enumerate(question[0]))) <= tolerance)
    if entry in UNORDERED:
        return bool(set(answer) == set(wanted))
    if entry in FOUND_OR_NOT:
        return bool(wanted == (answer if isinstance(answer, bool) else answer is not None))
    return bool(answer == wanted) or _other(entry, question, answer, tolerance)


def _other(entry: str, question: list[Any], answer: Any, tolerance: float) -> bool:
    """Whether an answer is right beside the reference's."""
    match entry:
        case "are_equivalent":
            return True
        case "sum_div":
            return bool(answer == 0)
        case "surface_Area":
            return bool(abs(answer - _surface(*question)) <= tolerance)
        case "digit_distance_nums":
            return bool(answer == _digit_distance(*map(str, question)))
    return False


def _surface(edge: float, height: float) -> int:
    """Of a square pyramid whose height is measured to its base."""
    return round(edge**2 + 2 * edge * math.sqrt((edge / 2) ** 2 + height**2))


def _digit_distance(a: str, b: str) -> int:
    width = max(len(a), len(b))
    return sum(abs(int(x) - int(y)) for x, y in zip(a.zfill(width), b.zfill(width), strict=True))


def _are_floats(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(part, float) for part in value)
    return isinstance(value, float)


def _same_length(answer: Any, wanted: Any) -> bool:
    return not isinstance(wanted, list | tuple) or len(answer) == len(wanted)


def all_close(answer: Any, wanted: Any, tolerance: float) -> bool:
    """As `numpy.allclose`, whose arrays are numbers in lists of one length. Raises TypeError for anything else."""
    shapes = _shape(answer), _shape(wanted)
    if shapes[0] != shapes[1]:
        return False
    pairs = zip(_numbers(answer), _numbers(wanted), strict=True)
    return all(a == b or abs(a - b) <= tolerance + RELATIVE * abs(b) < math.inf for a, b in pairs)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        if not isinstance(value, bool | int | float | complex) or (
            isinstance(value, int) and not -(1 << 63) <= value < 1 << 64
        ):
            raise TypeError(f"not a number of an array: {type(value)}")
        return ()
    inner = {_shape(part) for part in value}
    if len(inner) > 1:
        raise TypeError("lists of different lengths")
    return (len(value), *next(iter(inner), ()))


def _numbers(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    else:
        yield value


# --- values between the processes ---------------------------------------------------------------------------------


class Sender(pickle.Pickler):
    """Turns what is not plain into what is nearest: a subclass of list into a list, a stranger into nothing known."""

    def reducer_override(self, value: Any) -> Any:
        """What pickle asks for every value that it does not know."""
        if isinstance(value, type):
            return NotImplemented if value in (*_PLAIN, range, object) or _is_number(value) else (object, ())
        if _is_number(type(value)) or type(value) in (complex, range):
            return NotImplemented
        if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
            value = value.tolist()
        kind = next((kind for kind in _PLAIN if isinstance(value, kind)), None)
        return (kind, (kind(value),)) if kind else (object, ())


def _is_number(kind: type) -> bool:
    """Without loading their modules, which takes longer than most programs."""
    return (kind.__module__, kind.__name__) in _NUMBERS


class Receiver(pickle.Unpickler):
    """Makes plain values only, though a hostile sender can set attributes of what `find_class` gives."""

    def find_class(self, module: str, name: str) -> Any:
        """What pickle asks for every class: one that cannot be changed, or a function that makes its values."""
        if module == "builtins" and name in _NAMES:
            return super().find_class(module, name)
        if (module, name) in _NUMBERS:
            kind = super().find_class(module, name)
            return lambda *parts: kind(*parts)
        raise pickle.UnpicklingError(f"{module}.{name}")


def shortened(value: Any) -> Any:
    """A very long text or list as a digest of how it is written: some answers are hundreds of megabytes."""
    if type(value) in (str, list, tuple) and len(value) > LONG:
        import hashlib  # takes longer than most programs, and most need it not

        return hashlib.sha256(repr(value).encode(errors="surrogatepass")).digest()
    return value


def dumps(value: Any) -> bytes:
    """Plain bytes of any value."""
    buffer = io.BytesIO()
    Sender(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    """The plain value."""
    return Receiver(io.BytesIO(data)).load()


# --- the candidate's process --------------------------------------------------------------------------------------


def start(task: dict[str, Any]) -> "Candidate":
    """Forks a process that answers the parts of the questions, each once it may."""
    (go, may_go), (answers, pipe) = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(may_go)
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(nothing, fd)
        _answer(task, go, pipe)
    os.close(go)
    os.close(pipe)
    return Candidate(may_go, answers)


def _answer(task: dict[str, Any], go: int, pipe: int) -> NoReturn:
    """For each part defines the function anew, then answers all questions; ends at the first that raises."""
    entry = task["entry"]
    try:
        for part in PARTS:
            os.read(go, 1)
            space: dict[str, Any] = {}
            exec(task["code"], space)
            function = space[entry]
            _send(pipe, None)
            for question in task[part]:
                answer = function(*question)
                if entry in UNORDERED:
                    answer = set(answer)
                _send(pipe, (type(answer) in _EXACT, shortened(answer)))
    finally:
        os._exit(0)


def _send(pipe: int, value: Any) -> None:
    data = dumps(value)
    _write(pipe, len(data).to_bytes(4, "little") + data)


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


# --- the judge's process ------------------------------------------------------------------------------------------


class Candidate:
    """The other end of the candidate's pipes."""

    def __init__(self, may_go: int, answers: int) -> None:
        self._may_go, self._pipe = may_go, answers
        self._data, self._place, self._reads, self._deadline = b"", 0, 0, math.inf
        # Seconds in which this process did not run, and so, it must be thought, the other neither.
        self._stopped = 0.0
        os.set_blocking(answers, False)

    def go(self, seconds: float) -> None:
        """Lets it begin; it has so long for everything."""
        os.write(self._may_go, b"!")
        self._deadline = self._now() + seconds
        self.next(seconds)

    def next(self, seconds: float) -> Any:
        """The next value, within its own time. Raises Late, or Broken when no more will come."""
        deadline = min(self._now() + seconds, self._deadline)
        while True:
            start = self._place + 4
            end = start + int.from_bytes(self._data[self._place : start], "little")
            if start <= len(self._data) >= end:
                self._place = end
                return loads(self._data[start:end])
            self._read(deadline)

    def _now(self) -> float:
        return time.monotonic() - self._stopped

    def _is_ready(self, deadline: float) -> bool:
        start = self._now()
        if start >= deadline:
            raise Late
        ready = select.select([self._pipe], [], [], min(deadline - start, _LOOK))[0]
        if (taken := self._now() - start) > _STANDSTILL:
            self._stopped += taken
        return bool(ready)

    def _read(self, deadline: float) -> None:
        while not self._is_ready(deadline):
            pass
        if self._reads > _PATIENCE:
            time.sleep(_PAUSE)  # more will have come: fewer and larger reads
        self._reads += 1
        chunk = os.read(self._pipe, 1 << 20)
        if not chunk:
            raise Broken
        self._data, self._place = self._data[self._place :] + chunk, 0


def check(task: dict[str, Any], part: str, truth: dict[str, Any], candidate: Candidate) -> None:
    """Judges the answers to one part of the questions. Raises Wrong, Broken or Late."""
    limits = [max(LEAST_SECONDS, FACTOR * seconds) for seconds in truth[f"{part}_seconds"]]
    candidate.go(min(MOST_SECONDS, sum(limits)) + 2.0)
    tolerance = task["tolerance"]
    for question, expected, seconds in zip(task[part], truth[part], limits, strict=True):
        is_plain, answer = candidate.next(seconds)
        tolerance = compare(task["entry"], question, answer, is_plain, expected, tolerance)


def verdict(task: dict[str, Any], truth: dict[str, Any], candidate: Candidate) -> str:
    """A word for it, as the judge outside knows them."""
    try:
        for part in PARTS:
            check(task, part, truth, candidate)
    except Late:
        return "timeout"
    except Broken:
        return "error"
    except Exception:  # values that cannot even be compared
        return "wrong"
    return "timeout" if _was_stopped_within() else "passed"


def _was_stopped_within() -> bool:
    """Whether somebody in this box ever let this process go on: who does that had stopped it, and with it its clock."""
    went_on = signal.sigtimedwait({signal.SIGCONT}, 0)
    # Who is outside has no number here.
    return went_on is not None and (went_on.si_code, went_on.si_pid) != (0, 0)


def _answered(function: Callable[..., Any], question: list[Any]) -> Any:
    return shortened(function(*question))


def reference(task: dict[str, Any]) -> dict[str, Any]:
    """What the reference answers, and in how many seconds."""
    space: dict[str, Any] = {}
    exec(task["code"], space)
    truth: dict[str, Any] = {}
    for part in PARTS:
        # With the time that digesting takes, since a candidate's answer is digested before it comes.
        timed = [_timed(_answered, [space[task["entry"]], deepcopy(question)]) for question in task[part]]
        answers = [answer for answer, _ in timed]
        truth[part] = [answer is not None for answer in answers] if task["entry"] in FOUND_OR_NOT else answers
        truth[f"{part}_seconds"] = [seconds for _, seconds in timed]
    return truth


def _timed(function: Callable[..., Any], question: list[Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(*question), time.perf_counter() - start


def main() -> None:
    """Without a truth to come the code is the reference's, and its answers are what is printed."""
    task = pickle.loads(_part())
    if task["is_reference"]:
        output = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        data = dumps(reference(task))
        os.dup2(output, 1)
    else:
        ctypes.CDLL(None).prctl(_NOT_DUMPABLE, 0, 0, 0, 0)  # nobody may look into this process
        candidate = start(task)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})  # kept, to be looked at
        truth = loads(_part())
        word = os.read(0, 1 << 10).strip()
        data = word + f" {verdict(task, truth, candidate)}\n".encode()
    _write(1, data)


def _part() -> bytes:
    """Read without a buffer: what comes after it must not be in memory yet."""
    size, data = int.from_bytes(os.read(0, 8), "little"), bytearray()
    while len(data) < size:
        data += os.read(0, size - len(data))
    return bytes(data)


if __name__ == "__main__":
    main()
