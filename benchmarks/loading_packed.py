"""Time and peak memory of opening a GGUF file and its packed copy, beside reading the same bytes, in fresh processes.

`python -m benchmarks.loading_packed FILE.gguf FOLDER` (made by `coderv2 convert FILE.gguf FOLDER --pack`). Each file is
read once beforehand, so that it lies in the page cache as far as there is room; what the system had to fetch from disk
all the same is recorded too.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import record

ROUNDS = 3
_READ = """
import json, sys, time
piece, begin = bytearray(1 << 24), time.perf_counter()
with open(sys.argv[1], "rb", buffering=0) as file:
    while file.readinto(piece):
        pass
print(json.dumps({"seconds": time.perf_counter() - begin}))
"""
# What any copy in memory costs before a byte of it is written: on some virtual machines more than all the rest.
_TAKE = """
import json, os, sys, threading, time
from coderv2.kernels.memory import fresh_bytes
memory, begin = fresh_bytes(os.path.getsize(sys.argv[1])).numpy(), time.perf_counter()
half = len(memory) // 2
def touch(part): part[:: 1 << 21] = 1
threads = [threading.Thread(target=touch, args=(part,)) for part in (memory[:half], memory[half:])]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(json.dumps({"seconds": time.perf_counter() - begin}))
"""
_OPEN = """
import json, resource, sys, time
from pathlib import Path
from coderv2.model.loading import open_model
def status(name): return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) << 10
def fetched(): return int(next(l for l in open("/proc/self/io") if l.startswith("read_bytes")).split()[1])
before, disk, begin = status("VmRSS"), fetched(), time.perf_counter()
model = open_model(Path(sys.argv[1]))
print(json.dumps({
    "seconds": time.perf_counter() - begin,
    "system": resource.getrusage(resource.RUSAGE_SELF).ru_stime,
    "peak": status("VmHWM") - before,
    "after": status("VmRSS") - before,
    "from disk": fetched() - disk,
}))
"""


def main() -> None:
    """One line for each of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    rows = [
        _row("GGUF", arguments.file, arguments.file),
        _row("packed", arguments.folder, arguments.folder / "model.packed"),
    ]
    record("loading_packed", rows, ["torch", "numpy"])


def _row(name: str, opened: Path, file: Path) -> dict[str, Any]:
    _run(_READ, file)
    runs = [(_run(_READ, file), _run(_OPEN, opened), _run(_TAKE, file)) for _ in range(ROUNDS)]
    size = file.stat().st_size

    def median(which: int, key: str) -> float:
        return statistics.median(run[which][key] for run in runs)

    return {
        "file": name,
        "GB": size / 1e9,
        "read, s": median(0, "seconds"),
        "open, s": median(1, "seconds"),
        "processor s in the system": median(1, "system"),
        "take the memory, s": median(2, "seconds"),
        "open / read": median(1, "seconds") / median(0, "seconds"),
        "peak - file, GiB": (median(1, "peak") - size) / 2**30,
        "after - file, GiB": (median(1, "after") - size) / 2**30,
        "from disk, GB": median(1, "from disk") / 1e9,
    }


def _run(code: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-c", code, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    measured: dict[str, float] = json.loads(out.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
