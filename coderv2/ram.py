"""The memory of this machine, or of the container that we are in."""

import os
from pathlib import Path


def total_bytes() -> int:
    """All that there is."""
    whole = _meminfo().get("MemTotal", 0) or _pages() * os.sysconf("SC_PAGE_SIZE")
    return min(whole, _cgroup("memory.max") or whole)


def free_bytes() -> int:
    """What could be taken now; what a freshly read file left in the page cache counts as free."""
    free = _meminfo().get("MemAvailable", 0) or _pages() * os.sysconf("SC_PAGE_SIZE")
    limit, used = (_cgroup(name) for name in ("memory.max", "memory.current"))
    return free if limit is None else max(min(free, limit - (used or 0)), 0)


def _pages() -> int:
    return os.sysconf("SC_PHYS_PAGES")


def _meminfo() -> dict[str, int]:
    path = Path("/proc/meminfo")
    lines = path.read_text("ascii").splitlines() if path.exists() else []
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def _cgroup(name: str) -> int | None:
    """A number of this container's memory limits; None without a limit."""
    path = Path("/sys/fs/cgroup") / name
    text = path.read_text("ascii").strip() if path.exists() else "max"
    return int(text) if text.isdecimal() else None
