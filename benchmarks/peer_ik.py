"""Beside ik_llama.cpp, the fastest fork of llama.cpp on processors, on the same GGUF file, taking turns.

Not among `python -m benchmarks`: it is built by hand (targets `llama-bench`, `llama-batched-bench`). Its batched-bench
gives every sequence the same token all the time, which goes to the same experts: put random ones into both calls of
`common_batch_add` after the warm-up.

    python -m benchmarks.peer_ik MODEL.gguf FOLDER_OF_ITS_PROGRAMS [ROUNDS]
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.record import record
from coderv2 import paths

PROMPTS, DEPTH, ANSWERS, BEFORE, STEPS = (512, 2048), 4096, 16, 256, 16
# Everything that its makers recommend for this model: fused attention and experts, weights laid out for the processor.
FASTEST = ("-fa", "1", "-mla", "3", "-fmoe", "1", "-rtr", "1")


def ours(model: Path, cache: str) -> Iterator[tuple[str, float]]:
    """Name and tokens per second of every case, and the memory's speed at that time."""
    with tempfile.NamedTemporaryFile(suffix=".json") as kept:
        plan = {
            "--prompts": ",".join(map(str, PROMPTS)),
            "--depths": f"0,{DEPTH}",
            "--batches": str(ANSWERS),
            "--rounds": "1",
            "--kv-cache-dtype": cache,
            "--json": kept.name,
        }
        command = [sys.executable, "-m", "coderv2", "bench", "-m", str(model)]
        subprocess.run([*command, *(part for item in plan.items() for part in item)], check=True)
        report = json.loads(Path(kept.name).read_text("utf-8"))
    yield from ((case["name"], case["tokens_per_second"]) for case in report["cases"])
    yield "random blocks, GB/s", report["roofs"][-1]["blocks"] / 1e9


def theirs(model: Path, programs: Path, threads: int) -> Iterator[tuple[str, float]]:
    """The same of the peer."""
    command = [programs / "llama-bench", "-m", model, "-t", threads, "-r", 1, "-o", "json", *FASTEST]
    prompts = ",".join(map(str, PROMPTS))
    for one in json.loads(_output(*command, "-p", prompts, "-n", STEPS, "-gp", f"{DEPTH},{STEPS}")):
        name = f"prompt of {one['n_prompt']:,}" if not one["n_gen"] else f"answer after {one['n_prompt']:,}"
        yield name, one["avg_ts"]
    yield f"{ANSWERS} answers after {BEFORE}", _together(model, programs, threads)


def _together(model: Path, programs: Path, threads: int) -> float:
    tokens = 2 * ANSWERS * (BEFORE + STEPS)
    shape = ("-c", tokens, "-b", 2048, "-ub", 512, "-npp", BEFORE, "-ntg", STEPS, "-npl", ANSWERS)
    text = _output(programs / "llama-batched-bench", "-m", model, "-t", threads, "-mla", 3, "-rtr", *shape)
    row = re.search(rf"^\|\s*{BEFORE} \|\s*{STEPS} \|\s*{ANSWERS} \|(.*)\|$", text, re.MULTILINE)
    assert row is not None, text
    return float(row[1].split("|")[4])


def _output(*command: object) -> str:
    parts = [str(part) for part in command]
    done = subprocess.run(parts, check=True, capture_output=True, text=True)
    return done.stdout or done.stderr


def main() -> None:
    """One line a case: medians over the rounds."""
    model, programs = Path(sys.argv[1]), Path(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    speeds: dict[str, defaultdict[str, list[float]]] = {
        who: defaultdict(list) for who in ("ours", "ours, int8 cache", "ik_llama.cpp")
    }
    for _ in range(rounds):
        for who, run in (
            ("ours", ours(model, "auto")),
            ("ik_llama.cpp", theirs(model, programs, paths.threads())),
            ("ours, int8 cache", ours(model, "int8")),
        ):
            for name, speed in run:
                speeds[who][name].append(speed)
    rows = []
    for name in speeds["ours"]:
        of = {who: median(found[name]) if found[name] else None for who, found in speeds.items()}
        peer = of["ik_llama.cpp"]
        rows.append({"tokens/s": name, **of, "ratio": of["ours"] / peer if peer and of["ours"] else None})
    record("peer_ik", rows, ("torch",))


if __name__ == "__main__":
    main()
