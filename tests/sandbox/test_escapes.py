"""What strangers' programs try; every driver must hold against all of it."""

# ruff: noqa: E501 (a program stays on the line that it is one of)

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderv2.errors import CoderV2Error
from coderv2.sandbox.run import DRIVERS, Job, Limits, Outcome, Sandbox
from tests.sandbox.drivers import opened

MARK = f"{90_000 + os.getpid()}.4321"  # seconds that only programs of this run sleep


@pytest.fixture(scope="module", params=DRIVERS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Each driver that runs on this machine."""
    yield from opened(DRIVERS[request.param])


def python(sandbox: Sandbox, code: str, **limits: float) -> Outcome:
    """What comes of a program, and a look whether the driver is still well after it."""
    command = [sys.executable, "program.py"]
    given = Limits(**{"seconds": 20.0, **limits})  # type: ignore[arg-type]
    outcome = sandbox.run(
        Job(command, files={"program.py": f"import ctypes, os, socket, sys, time\n{code}"}, limits=given)
    )
    assert sandbox.run(Job(["echo", "well"])).stdout == b"well\n"
    return outcome


def sleepers() -> list[str]:
    """Processes of this machine that sleep for as long as only an escaped program would."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if MARK.encode() in file.read_bytes():
                found.append(str(file))
        except OSError:
            continue
    return found


def denied(sandbox: Sandbox, statement: str) -> None:
    """The statement must raise OSError."""
    outcome = python(
        sandbox, f"try:\n    {statement}\nexcept OSError as error:\n    print('denied', error)\n"
    )
    assert outcome.stdout.startswith(b"denied"), (statement, outcome, outcome.stderr)


def test_the_network_is_out_of_reach(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        denied(sandbox, f"socket.create_connection({server.getsockname()!r}, 2)")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0coderv2-escape")
        server.listen()
        denied(sandbox, "socket.socket(socket.AF_UNIX).connect('\\0coderv2-escape')")
    denied(sandbox, "socket.create_connection(('1.1.1.1', 53), 2)")


@pytest.mark.parametrize("family", ["NETLINK", "PACKET", "VSOCK", "ALG"])
def test_sockets_to_the_kernel_and_to_what_is_below_it_cannot_be_made(sandbox: Sandbox, family: str) -> None:
    denied(sandbox, f"socket.socket(socket.AF_{family}, socket.SOCK_RAW)")


def test_a_fork_bomb_fizzles_out(sandbox: Sandbox) -> None:
    bomb = "while True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    assert python(sandbox, bomb, seconds=1.0).status == "timeout"


def test_processes_and_threads_are_counted(sandbox: Sandbox) -> None:
    code = (
        "import threading\nn = 0\ntry:\n    while True:\n"
        "        if os.fork() == 0:\n            time.sleep(9)\n            os._exit(0)\n        n += 1\n"
        "except OSError:\n    print(n, flush=True)\n"
        "try:\n    threading.Thread(target=print).start()\nexcept RuntimeError:\n    print('no thread', flush=True)\nos._exit(0)\n"
    )
    outcome = python(sandbox, code, processes=20)
    count, thread = outcome.stdout.decode().splitlines()
    assert 10 <= int(count) < 20
    assert thread == "no thread"


def test_two_boxes_do_not_share_their_count_of_processes(sandbox: Sandbox) -> None:
    code = "import threading\nfor _ in range(25):\n    threading.Thread(target=time.sleep, args=(1.0,)).start()\nprint('all')\n"
    outcomes: list[Outcome] = []
    command = [sys.executable, "program.py"]
    files = {"program.py": f"import time\n{code}"}

    def one() -> None:
        outcomes.append(sandbox.run(Job(command, files=files, limits=Limits(processes=40, seconds=30.0))))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.stdout for outcome in outcomes] == [b"all\n", b"all\n"]


def test_the_machines_processes_are_not_seen(sandbox: Sandbox) -> None:
    code = "print(*[p for p in os.listdir('/proc') if p.isdecimal()])"
    pids = list(map(int, python(sandbox, code).stdout.split()))
    assert pids
    assert len(pids) <= 3  # the first, perhaps bubblewrap's, and itself
    denied(sandbox, "open('/proc/1/mem', 'rb+')")
    denied(sandbox, "os.listdir('/proc/1/root/')")
    denied(sandbox, "open('/proc/1/environ').read()")


@pytest.mark.parametrize(
    "path",
    ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/usr/bin/new", "/new", "/dev/new", "/proc/new"],
)
def test_nothing_but_its_folders_can_be_written(sandbox: Sandbox, path: str) -> None:
    denied(sandbox, f"open({path!r}, 'w').write('x')")


def test_links_do_not_lead_out(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for path in (str(secret), f"/proc/self/cwd/../..{secret}", "/etc/shadow", "/root/.ssh"):
        denied(sandbox, f"os.symlink({path!r}, 'link'); os.stat('link')")
    denied(
        sandbox, f"os.link('/usr/bin/env', 'hard'); os.symlink({str(secret)!r}, 'link'); open('link', 'w')"
    )
    assert secret.read_text() == "secret"


def test_ptrace_and_its_like_are_denied(sandbox: Sandbox) -> None:
    call = "ctypes.CDLL(None, use_errno=True)"
    check = "{}; e = ctypes.get_errno(); raise OSError(e, 'denied') if e else SystemExit('done')"
    for attempt in ("ptrace(16, 1, 0, 0)", "ptrace(0, 0, 0, 0)", "process_vm_readv(1, 0, 0, 0, 0, 0)"):
        denied(sandbox, check.format(f"{call}.{attempt}"))


@pytest.mark.parametrize(
    "attempt",
    [
        "unshare(0x10000000)",  # a user namespace of its own
        "mount(b'tmpfs', b'/box', b'tmpfs', 0, None)",
        "umount2(b'/proc', 2)",
        "chroot(b'/box')",
        "setresuid(0, 0, 0)",
        "setns(0, 0)",
        "shmget(1, 4096, 0o1777)",
        "memfd_create(b'x', 0)",
        "syscall(321, 0, 0, 0)",  # bpf, on x86-64
        "syscall(425, 1, 0)",  # io_uring_setup
        "syscall(250, 0, 0)",  # keyctl
        "syscall(298, 0, 0, 0, 0, 0)",  # perf_event_open
        "syscall(56, 0x10000011, 0, 0, 0, 0)",  # clone with a user namespace
        "mknod(b'disk', 0o60666, 0xfd00)",
        "prlimit(1, 1, (ctypes.c_long * 2)(0, 0), None)",  # the first process's, who starts those that follow
        "setpriority(0, 1, 19)",
        "setpriority(2, 0, 19)",  # all processes of the user
        "sched_setaffinity(1, 8, (ctypes.c_long * 1)(1))",
        "sched_setscheduler(1, 5, (ctypes.c_int * 1)(0))",
        "syscall(251, 1, 1, 3 << 13)",  # ioprio_set, on x86-64
    ],
)
def test_no_right_of_root_is_left(sandbox: Sandbox, attempt: str) -> None:
    code = f"result = ctypes.CDLL(None, use_errno=True).{attempt}; raise OSError if result == -1 else SystemExit('done')"
    denied(sandbox, code)


def test_a_program_may_still_bound_itself_and_its_children(sandbox: Sandbox) -> None:
    code = (
        "import resource\nchild = os.fork() or time.sleep(60)\n"
        "for pid in (0, os.getpid(), child):\n    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))\n"
        "    os.sched_setaffinity(pid, os.sched_getaffinity(0))\n    os.setpriority(os.PRIO_PROCESS, pid, 19)\n"
        "print('done', os.nice(1), flush=True)\n"
    )
    outcome = python(sandbox, code)
    assert outcome.stdout == b"done 19\n", outcome.stderr


def test_the_program_is_nobody_without_capabilities(sandbox: Sandbox) -> None:
    code = "print(os.getuid(), *[l.split()[1] for l in open('/proc/self/status') if l[:6] in ('CapPrm', 'CapEff', 'CapAmb', 'NoNewP', 'Seccom')][:5])"
    user, *capabilities, alone, seccomp = python(sandbox, code).stdout.decode().split()
    assert int(user) >= 65534
    assert {int(word, 16) for word in capabilities} == {0}
    assert (alone, seccomp) == ("1", "2")


def test_a_program_may_open_its_streams_by_name(sandbox: Sandbox) -> None:
    outcome = sandbox.run(
        Job(
            ["sh", "-c", "cat /dev/stdin > /dev/stdout; echo err > /dev/stderr; echo 2 >> /proc/self/fd/1"],
            stdin=b"out\n",
        )
    )
    assert (outcome.stdout, outcome.stderr) == (b"out\n2\n", b"err\n")


def test_a_setuid_program_gains_nothing(sandbox: Sandbox) -> None:
    outcome = sandbox.run(Job(["sh", "-c", "su -c id; passwd -d root; mount -t tmpfs x /box; id -u"]))
    assert int(outcome.stdout) >= 65534


def test_ten_gigabytes_do_not_fit_into_a_file_nor_into_many(sandbox: Sandbox) -> None:
    one = "f = open('big', 'wb')\nfor _ in range(10_000):\n    f.write(bytes(1 << 20))\n"
    outcome = python(sandbox, one)
    assert outcome.code not in (0, None), outcome
    many = (
        "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\ntotal = 0\n"
        "for folder in ('.', '/dev/shm', '/tmp'):\n    try:\n        for i in range(10_000):\n"
        "            with open(f'{folder}/f{i}', 'wb', 0) as f:\n                total += f.write(bytes(1 << 20))\n"
        "    except OSError:\n        pass\nprint(total)\n"
    )
    assert int(python(sandbox, many, file_bytes=2 << 20).stdout) <= 3 * (8 << 20)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_endless_output_is_cut(sandbox: Sandbox, stream: str) -> None:
    outcome = python(sandbox, f"while True:\n    sys.{stream}.write('x' * 65536)\n", output_bytes=100_000)
    assert outcome.status == "output"
    assert len(outcome.stdout) + len(outcome.stderr) <= 100_000


def test_signals_reach_nobody_else(sandbox: Sandbox) -> None:
    code = (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nfor pid in (1, os.getppid(), -1, 2**15):\n"
        "    try:\n        os.kill(pid, signal.SIGTERM if pid == -1 else signal.SIGKILL)\n    except OSError:\n        pass\n"
        "print('alive')\n"
    )
    outcome = python(sandbox, code)
    assert (outcome.status, outcome.stdout) in [("exited", b"alive\n"), ("killed", b"")]
    assert python(sandbox, "os.kill(-1, 9)").status in ("exited", "killed")


@pytest.mark.parametrize(
    "ending", ["sys.exit(0)", "time.sleep(60)", "os.kill(os.getpid(), 19)", "os._exit(0)"]
)
def test_a_daemon_does_not_outlive_its_time(sandbox: Sandbox, ending: str) -> None:
    code = (
        "import signal\nfor s in (1, 2, 15, 17):\n    signal.signal(s, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.closerange(0, 100)\n"
        f"        os.execvp('sleep', ['sleep', '{MARK}'])\n    os._exit(0)\n"
        f"time.sleep(0.2)\n{ending}\n"
    )
    outcome = python(sandbox, code, seconds=1.5)
    assert outcome.status in ("exited", "timeout")
    assert outcome.seconds < 10
    assert sleepers() == []


def test_a_daemon_that_holds_the_output_open_delays_nothing(sandbox: Sandbox) -> None:
    outcome = sandbox.run(Job(["sh", "-c", f"sleep {MARK} & echo done"], limits=Limits(seconds=30.0)))
    assert (outcome.status, outcome.stdout) == ("exited", b"done\n")
    assert outcome.seconds < 10
    assert sleepers() == []


@pytest.mark.parametrize(
    "greed",
    [
        "x = bytearray(2 << 30)",
        "import mmap\nx = mmap.mmap(-1, 2 << 30)\nfor i in range(0, 2 << 30, 4096):\n    x[i] = 1",
        "for _ in range(9):\n    if os.fork() == 0:\n        x = bytearray(b'x') * (100 << 20)\n        time.sleep(9)\ntime.sleep(9)",
        # shared memory that is let go of piece by piece, but not given back
        "import mmap\nkeep = []\nfor i in range(12):\n    m = mmap.mmap(-1, 50 << 20)\n    keep.append(m)\n    for o in range(0, 50 << 20, 2 << 20):\n"
        "        m[o:o + (2 << 20)] = b'x' * (2 << 20)\n        m.madvise(mmap.MADV_DONTNEED, o, 2 << 20)\ntime.sleep(9)",
        # queues of sockets
        "k = []\nfor i in range(500):\n    k += socket.socketpair()\n    for s in k[-2:]:\n        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)\n"
        "        s.setblocking(False)\n        try:\n            while True:\n                s.send(b'x' * 65536)\n        except OSError:\n            pass\ntime.sleep(9)",
        # threads whose first one, by which all are counted, has ended
        "import threading\nfor _ in range(3):\n    if os.fork() == 0:\n        break\ndef hold():\n    time.sleep(0.5)\n    x = bytearray(b'x') * (100 << 20)\n    time.sleep(9)\n"
        "threading.Thread(target=hold).start()\nctypes.CDLL(None).syscall(60, 0)",
    ],
)
def test_memory_is_bounded(sandbox: Sandbox, greed: str) -> None:
    outcome = python(sandbox, greed, memory_bytes=256 << 20)
    assert outcome.status == "memory" or b"MemoryError" in outcome.stderr, outcome


def test_files_are_counted(sandbox: Sandbox) -> None:
    """Empty ones take memory too: 600,000 took 600 MiB."""
    code = "n = 0\ntry:\n    while n < 200_000:\n        os.mknod(f'f{n}')\n        n += 1\nexcept OSError:\n    pass\nprint(n)\n"
    outcome = python(sandbox, code, memory_bytes=64 << 20)
    assert outcome.status == "memory" or int(outcome.stdout) < 20_000, outcome


def test_programs_are_who_is_killed_when_memory_is_short(sandbox: Sandbox) -> None:
    assert python(sandbox, "print(open('/proc/self/oom_score_adj').read())").stdout == b"1000\n\n"


def test_processor_time_is_bounded(sandbox: Sandbox) -> None:
    """By SIGXCPU, which tells why; who ignores that is killed a second later."""
    outcome = python(sandbox, "while True:\n    pass\n", cpu_seconds=1)
    assert (outcome.status, outcome.code) == ("killed", -signal.SIGXCPU)
    deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass\n"
    outcome = python(sandbox, deaf, cpu_seconds=1)
    assert (outcome.status, outcome.code) == ("killed", -signal.SIGKILL)


def test_nothing_of_the_caller_is_inherited(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODERV2_SECRET", "secret")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    outcome = python(
        sandbox, "print('CODERV2_SECRET' in os.environ, sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
    )
    os.close(reader)
    os.close(writer)
    assert outcome.stdout == b"False [0, 1, 2]\n"


def test_what_one_program_leaves_behind_the_next_does_not_find(sandbox: Sandbox) -> None:
    python(sandbox, "for f in ('/box/left', '/tmp/left', '/dev/shm/left'):\n    open(f, 'w').close()\n")
    outcome = python(sandbox, "print(sorted(os.listdir('/box')), os.listdir('/dev/shm'))")
    assert outcome.stdout == b"['program.py'] []\n"


def test_nothing_of_an_earlier_program_lies_in_the_memory_of_the_next(sandbox: Sandbox) -> None:
    """A Python program is a copy of a process that its files and input, and what it printed, passed through."""
    begin, secret = "c0de" * 4, os.urandom(16).hex()
    files = {"program.py": f"x = '{begin}{secret}'; print(x * 5000)", "data": f"{begin}{secret}" * 3000}
    outcome = sandbox.run(Job([sys.executable, "program.py"], files, f"{begin}{secret}".encode() * 2000))
    assert len(outcome.stdout) == 5000 * 48 + 1
    scan = (
        f"import re\nfor line in open('/proc/self/maps'):\n    area, rights = line.split()[:2]\n"
        "    if rights.startswith('rw') and 'vvar' not in line:\n"
        "        begin, end = (int(x, 16) for x in area.split('-'))\n"
        f"        for found in re.findall(b'{begin}[0-9a-f]{{32}}', ctypes.string_at(begin, end - begin)):\n"
        "            print('found', found)\nprint('searched')"
    )
    assert python(sandbox, scan).stdout == b"searched\n"


@pytest.mark.parametrize("path", ["../out", "/etc/out", "a/../../out", ""])
def test_files_are_only_laid_out_inside(sandbox: Sandbox, path: str) -> None:
    with pytest.raises(CoderV2Error, match="must lie in its folder"):
        sandbox.run(Job(["true"], files={path: ""}))
