"""One program under limits, on a machine that it must not harm.

A driver starts the program in user, process, mount, network, IPC and host-name namespaces of its own, as nobody,
without any capability, under a seccomp filter and rlimits. It sees `/usr`, the libraries, the interpreters (all
read-only), a writable folder `/box` that holds its files and nothing else, and devices that give nothing away. When it
ends, or a limit is passed, every process that it started is killed with it.

What this does not stop:

- a hole in the kernel: programs share the host's. For programs that are written to attack one, use a virtual machine;
- reading what is world-readable below the paths shown (`view.py`), such as which packages are installed;
- side channels: timing, caches, the load of the machine;
- memory that many processes take together within one look of the watch (20 ms): each process is bounded by the kernel,
  their sum is looked at. Sockets count by the most that they may hold, shared memory that a program has let go of by
  how much the machine's grew meanwhile. Pipes are left, 64 MiB of them for a user and a page or two for each beyond.
  When the machine's memory is short the kernel kills programs first; in a box of bubblewrap alone a program can undo
  that;
- slowing others down: processor time is bounded by the time limit, not shared fairly.
"""

from collections.abc import Callable
from typing import Protocol

from coderv2.errors import NoSandbox, SandboxFailed, Unsupported
from coderv2.log import logger
from coderv2.sandbox.bubblewrap import Bubblewrap
from coderv2.sandbox.limits import DEFAULTS, Job, Limits, Outcome, Status
from coderv2.sandbox.namespaces import Namespaces
from coderv2.sandbox.privilege import shortcoming
from coderv2.sandbox.unprotected import Unprotected

__all__ = ["DEFAULTS", "Job", "Limits", "Outcome", "Sandbox", "Status", "best_sandbox", "working"]


class Sandbox(Protocol):
    """A way of running programs. Threads may share one."""

    name: str

    def run(self, job: Job) -> Outcome:
        """Runs it to its end or to the first limit that it passes."""

    def close(self) -> None:
        """Ends whatever the driver has running, programs too; who waits for one gets SandboxFailed."""


DRIVERS: dict[str, Callable[[], Sandbox]] = {
    "bubblewrap and namespaces": lambda: Namespaces(within_bubblewrap=True),
    "bubblewrap": Bubblewrap,
    "namespaces": Namespaces,
}
"""From the strongest to the weakest; all of them pass the same suite of escapes."""


def best_sandbox(unprotected: bool = False) -> Sandbox:
    """The strongest driver that works on this machine.

    Raises NoSandbox where none does, unless `unprotected`: then the programs run with the user's own rights.
    """
    reasons = []
    for name, make in DRIVERS.items():
        try:
            return working(make())
        except (OSError, SandboxFailed, Unsupported) as error:
            reasons.append(f"{name}: {error}")
    reasons += filter(None, [shortcoming()])
    if unprotected:
        logger.warning("programs run unprotected, with your files and network in reach")
        return working(Unprotected())
    raise NoSandbox(
        f"no sandbox works here ({'; '.join(reasons)}). Install bubblewrap, or allow unprivileged user "
        "namespaces, or run the programs unprotected on a machine that nothing depends on (--unprotected)"
    )


def working(sandbox: Sandbox) -> Sandbox:
    """The same driver, once a trivial program has run in it; raises SandboxFailed with the reason where it does not."""
    try:
        outcome = sandbox.run(Job(["true"]))
        if outcome.code != 0:
            raise SandboxFailed(
                f"a trivial program ended with {outcome.status} {outcome.stderr.decode(errors='replace')}"
            )
    except BaseException:
        sandbox.close()
        raise
    return sandbox
