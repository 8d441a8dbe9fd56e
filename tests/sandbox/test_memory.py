"""What counts as a program's memory, and what does not."""

import os
import socket

from coderv2.sandbox.limits import Limits
from coderv2.sandbox.memory import Memory
from coderv2.sandbox.run import Job
from coderv2.sandbox.unprotected import Unprotected


def test_sockets_and_files_of_the_machine_are_no_programs() -> None:
    """A box that is still being built shows those of its caller; without a box they are all that is seen."""
    pid, folders = os.getpid(), ("/dev/shm", "/tmp", "/")
    pairs = [socket.socketpair() for _ in range(100)]
    alone = Memory(outside=True).bytes([pid])
    counted = Memory(outside=False).bytes([pid])
    assert counted - alone > 200 * (200 << 10)
    assert Memory(outside=True, folders=folders).bytes([pid]) < alone + (10 << 20)
    outcome = Unprotected().run(Job(["sleep", "0.2"], limits=Limits(memory_bytes=32 << 20)))
    assert outcome.status == "exited"
    for each in (end for pair in pairs for end in pair):
        each.close()


def test_a_process_that_is_gone_counts_nothing() -> None:
    assert Memory(outside=False).bytes([1 << 22]) == 0
