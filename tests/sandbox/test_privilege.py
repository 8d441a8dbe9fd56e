"""Roots that are none: the sandbox works for them as it does for any user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coderv2.sandbox.privilege import privileged
from coderv2.sandbox.run import DRIVERS

ROOT = Path(__file__).parent.parent.parent
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all")
CONTAINED = """
import os, sys
from coderv2.sandbox import room, syscalls
syscalls.libc("unshare", room.NEW_USER)
print("ready", flush=True)
sys.stdin.readline()
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
PROGRAM = (
    "import os; print(os.getuid(), [line for line in open('/proc/self/status') if line.startswith('CapEff')])"
)
RUN = f"""
import os, sys
from coderv2.sandbox.privilege import privileged, shortcoming
from coderv2.sandbox.run import DRIVERS, Job, working
assert os.getuid() == 0
assert not privileged()
assert "rootless" in shortcoming()
sandbox = working(DRIVERS[sys.argv[1]]())
print(sandbox.run(Job([sys.executable, "program.py"], files={{"program.py": {PROGRAM!r}}})).stdout.decode())
sandbox.close()
"""


NOBODY = f"65534 ['CapEff:\\t{0:016x}\\n']"
pytestmark = pytest.mark.skipif(not privileged(), reason="needs root, to give up being it")


def begun(*command: str | Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env={"PATH": os.environ["PATH"]}, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


@pytest.mark.parametrize("driver", DRIVERS)
def test_root_without_the_right_to_make_namespaces_runs_programs_as_anybody_does(driver: str) -> None:
    """It was refused: unshare is not permitted."""
    if subprocess.run(
        [*WITHOUT_RIGHTS, "unshare", "--user", "true"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no user namespaces here")
    with begun(*WITHOUT_RIGHTS, sys.executable, "-c", RUN, driver) as root:
        printed, said = root.communicate()
    assert printed.strip() == NOBODY, said


@pytest.mark.parametrize("driver", DRIVERS)
def test_root_of_a_rootless_container_runs_programs_as_anybody_does(driver: str) -> None:
    """It was refused: setresuid failed, for no user of the container has such a number."""
    with begun(sys.executable, "-c", CONTAINED, "-c", RUN, driver) as root:
        assert root.stdout
        if root.stdout.readline() != "ready\n":
            pytest.skip("no user namespaces here")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{root.pid}/{name}").write_text("0 0 65536")
        printed, said = root.communicate("\n")
    assert printed.strip() == NOBODY, said
