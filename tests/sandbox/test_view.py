"""What is shown of the Python that runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coderv2.sandbox.run import DRIVERS

ROOT = Path(__file__).parent.parent.parent
LOOK = """
import sys
from coderv2.errors import CoderV2Error
from coderv2.sandbox.run import DRIVERS, Job, working
try:
    sandbox = working(DRIVERS[sys.argv[1]]())
except (OSError, CoderV2Error) as error:
    sys.exit(f"skip: {error}")
code = "import json, os; print(sorted(os.listdir(os.sys.prefix)))"
outcome = sandbox.run(Job([sys.executable, "program.py"], files={"program.py": code}))
sandbox.close()
print(outcome.stdout.decode(), outcome.stderr.decode())
"""


@pytest.mark.parametrize("driver", DRIVERS)
def test_of_an_environment_that_is_somebodys_home_only_the_environment_is_shown(
    driver: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    (home / ".ssh").mkdir()
    (home / ".ssh/id").write_text("secret")
    (home / "notes").write_text("secret")
    done = subprocess.run(
        [home / "bin/python", "-c", LOOK, driver],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.stderr.startswith("skip"):
        pytest.skip(done.stderr)
    assert done.stdout.strip() == "['bin', 'include', 'lib', 'lib64', 'pyvenv.cfg']", done.stderr
