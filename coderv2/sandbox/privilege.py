"""Whether the caller can make a user that nobody else is, or only give up what itself may do."""

import os
from functools import cache
from pathlib import Path

USERS = range(1 << 30, 1 << 31)  # of which each program becomes one
_NEEDED = (6, 7, 21)  # CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN


@cache
def privileged() -> bool:
    """Not every root is: one of a rootless container has few users, one of another may make no namespaces."""
    return os.getuid() == 0 and _capable() and all(map(_covers_users, ("uid_map", "gid_map")))


def shortcoming() -> str:
    """Why what works for root may not work here; nothing for who is root indeed, or does not seem to be."""
    if os.getuid() or privileged():
        return ""
    return (
        "root here lacks CAP_SYS_ADMIN, or users to be (a rootless container): the way of any user was tried"
    )


def _capable() -> bool:
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    return all(effective >> bit & 1 for bit in _NEEDED)


def _covers_users(name: str) -> bool:
    rows = [list(map(int, row.split())) for row in Path(f"/proc/self/{name}").read_text().splitlines()]
    return any(first <= USERS.start and USERS.stop <= first + count for first, _, count in rows)
