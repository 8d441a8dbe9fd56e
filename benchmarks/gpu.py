"""Every figure of the GPU path on one card: prompts and answers of a model of Lite's true shape, and each kernel.

Weights are random and made on the device; nothing is downloaded. The parts, most important first:

    tests     the kernels' tests and those of recorded steps, on the card
    bf16 fp8  prompts and answers, beside the figures to reach and the bounds
    peer      transformers on weights of the same shape
    tune      tile sizes (`coderv2 bench --tune`), for later runs
    kernels   each beside PyTorch and beside what the card reaches at best
    int4      as bf16

    python -m benchmarks.gpu bf16 peer             # in this process
    python -m benchmarks.gpu all --minutes 9       # each part in a process of its own, ended in time
    python -m benchmarks.gpu tiny                  # in small on the CPU: shows that the script works, no more

Each figure is printed and written to `benchmarks/results/DATE_gpu_TIME.jsonl`, and to the folder OUT of the environment
where that is set, as soon as it is there, an error in place of it too; a table of all ends a run. The exit status is 1
where something failed. Without a GPU it says so and measures nothing.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile

import torch

from benchmarks import gpu_model, gpu_table
from benchmarks.gpu_model import FORMATS, REAL, SMALL, Run
from benchmarks.journal import BROKEN, Journal, begun, places

LIMITS = {"tests": 150, "bf16": 180, "fp8": 180, "peer": 90, "tune": 180, "kernels": 150, "int4": 90}
"""The parts, most important first, and seconds that each may take at most."""
PARTS = tuple(LIMITS)
TESTS = ("tests/kernels/gpu", "tests/engine/test_graphs.py")
ROOT = Path(__file__).parent.parent


def main(parts: Sequence[str] = PARTS, *, minutes: float | None = None, journal: str | None = None) -> bool:
    """The parts named, and whether all went well; `tiny` alone is those that measure, in small.

    `minutes` has each run in a process of its own; `journal` is the file of a run that goes on.
    """
    if list(parts) == ["tiny"]:
        os.environ["TRITON_INTERPRET"] = "1"
        return _measure(SMALL, [*FORMATS, "peer", "kernels"], Journal())
    if not torch.cuda.is_available():
        print("gpu: no GPU here, so nothing is measured")
        return True
    from coderv2.kernels.gpu.timing import answers

    name = journal or begun("gpu", ("torch", "triton", "transformers"))
    if minutes is not None:
        return in_processes(parts, minutes, name)
    return _measure(REAL, parts, Journal(*places(name), broken=lambda: not answers()), table=journal is None)


@torch.inference_mode()
def _measure(run: Run, parts: Sequence[str], journal: Journal, *, table: bool = True) -> bool:
    for part in parts:
        if part in FORMATS:
            gpu_model.measure(run, part, journal)
        elif part == "peer":
            gpu_model.peer(run, journal)
        elif part == "kernels":
            from benchmarks import gpu_kernels

            gpu_kernels.measure(gpu_kernels.LITE if run is REAL else gpu_kernels.TINY, journal)
        elif part == "tune":
            journal.attempt({"part": "tune", "what": _state(run)}, lambda: {"file": _tuned(run)})
        else:
            journal.attempt({"part": "tests", "what": "pytest"}, _tested)
    if table:
        print(gpu_table.table(journal.lines))
    return not journal.failed


def _state(run: Run) -> str:
    """Whether tuning anew gets any further than the last time."""
    from coderv2.kernels.gpu import tiles

    table = tiles.Table.read(tiles.card(run.device).name)
    return f"after {len(table.tiles)} tiles, {len(table.refused)} refused"


def _tuned(run: Run) -> str:
    """The path of the table; kept beside the figures too."""
    from coderv2.kernels.gpu import trials, tuning

    kinds = trials.kinds(torch.cuda.get_device_capability())
    path = tuning.tune(trials.LITE, run.device, kinds=kinds, say=partial(print, flush=True), written=_beside)
    return str(path.relative_to(ROOT))


def _beside(path: Path) -> None:
    """A copy of the tuned table where only some files outlive the machine."""
    for place in places(path.name)[1:]:
        copyfile(path, place)


def _tested() -> dict[str, str]:
    """What pytest says last. How kernels compile for other cards is tested without one."""
    # Warnings of other versions than ours are none of its business, nor settings that an older pytest does not know.
    how = "-q -rfE --tb=short -o addopts= --import-mode=importlib -p no:cacheprovider -W default"
    side_by_side = ("-n", "8") if find_spec("xdist") else ()
    left_out = ("--ignore", "tests/kernels/gpu/test_compiled.py")
    command = (
        sys.executable,
        "-m",
        "pytest",
        *how.split(),
        "-m",
        "not slow",
        *left_out,
        *side_by_side,
        *TESTS,
    )
    said = []
    signal.signal(signal.SIGINT, lambda *_: None)  # pytest hears it too, and says how far it came
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as tests:
        assert tests.stdout is not None
        for line in tests.stdout:
            print(line, end="", flush=True)
            said.append(line.strip())
    if tests.returncode:
        raise RuntimeError(said[-1])
    return {"said": said[-1]}


def in_processes(
    parts: Sequence[str],
    minutes: float,
    name: str,
    command: Sequence[str] = (sys.executable, "-m", "benchmarks.gpu"),
) -> bool:
    """Each part in a process of its own while there is time; one that the GPU no longer answers is started anew."""
    end, well = time.monotonic() + 60 * minutes, True
    for part in parts:
        seconds = min(LIMITS[part], end - time.monotonic())
        if seconds <= 0:
            print(f"{part}: not begun, out of time", flush=True)
        well &= seconds > 0 and _in_process([*command, part, "--journal", name], seconds, name)
    print(gpu_table.table(_lines(name)), flush=True)
    return well


def _in_process(command: Sequence[str], seconds: float, name: str) -> bool:
    """One part, and whether it went well."""
    end, before, status, well = time.monotonic() + seconds, -1, BROKEN, True
    while status == BROKEN and len(_lines(name)) > before and end > time.monotonic():
        before = len(_lines(name))
        status = _ended(command, end - time.monotonic())
        well &= status == 0
    return well


def _lines(name: str) -> list[dict[str, object]]:
    return Journal(*places(name)).lines


def _ended(command: Sequence[str], seconds: float) -> int:
    """The exit status of a command that is interrupted after so long, and soon killed with all that it started."""
    with subprocess.Popen(command, cwd=ROOT, process_group=0) as process:
        for patience, sent in ((seconds, signal.SIGINT), (10, signal.SIGKILL)):
            try:
                return process.wait(patience)
            except subprocess.TimeoutExpired:
                print(f"{' '.join(command[3:])}: out of time", flush=True)
                os.killpg(process.pid, sent)
            except BaseException:  # this process is to end, and nothing may go on without it
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return process.wait()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description="See the head of benchmarks/gpu.py."
    )
    parser.add_argument(
        "parts", nargs="*", default=["all"], help=f"all, tiny, or some of: {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--minutes", type=float, help="each part in a process of its own, all ended after so long"
    )
    parser.add_argument("--journal", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.parts) - {*PARTS, "all", "tiny"}:
        parser.error(f"no part called {min(unknown)}; there are {', '.join(PARTS)}, or all or tiny alone")
    return given


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    given = _arguments()
    wanted = list(PARTS) if given.parts == ["all"] else given.parts
    sys.exit(not main(wanted, minutes=given.minutes, journal=given.journal))
