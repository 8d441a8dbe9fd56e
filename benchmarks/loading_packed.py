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
_TOUCH = """
import json, os, sys, threading, time
from coderv2.kernels.memory import fresh_bytes
def touch():
    "A byte in every huge page of as much fresh memory as the file has, by two threads; how long that took."
    memory, begin = fresh_bytes(os.path.getsize(sys.argv[2])).numpy(), time.perf_counter()
    half = len(memory) // 2
    def every(part): part[:: 1 << 21] = 1
    threads = [threading.Thread(target=every, args=(part,)) for part in (memory[:half], memory[half:])]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    return time.perf_counter() - begin
"""
# What any copy in memory costs before a byte of it is written: on some virtual machines more than all the rest, since
# their host has to find each page first, and is given it back seconds after it is free. "again": what it costs then.
_TAKE = f"""
{_TOUCH}
print(json.dumps({{"seconds": touch(), "again": touch()}}))
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
_OPEN_AGAIN = f"{_TOUCH}\ntouch()\n{_OPEN}"
"""The same into memory that the machine's host has just given, as it always is without a host."""


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
    codes = (_READ, _OPEN, _TAKE, _OPEN_AGAIN)
    _run(_READ, file, file)
    runs = [[_run(code, file if code == _READ else opened, file) for code in codes] for _ in range(ROUNDS)]
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
        "take it again, s": median(2, "again"),
        "open then, s": median(3, "seconds"),
        "open then / read": median(3, "seconds") / median(0, "seconds"),
        "peak - file, GiB": (median(1, "peak") - size) / 2**30,
        "after - file, GiB": (median(1, "after") - size) / 2**30,
        "from disk, GB": median(1, "from disk") / 1e9,
    }


def _run(code: str, opened: Path, file: Path) -> dict[str, float]:
    command = [sys.executable, "-c", code, str(opened), str(file)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    measured: dict[str, float] = json.loads(out.splitlines()[-1])
    return measured


if __name__ == "__main__":
    main()
