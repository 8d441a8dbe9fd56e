"""Options of `bwrap` that make the room: what `view` shows, apart from all else."""

from pathlib import Path

from coderv2.sandbox.privilege import privileged
from coderv2.sandbox.view import DEVICES, STREAMS, environment, folders, shown


def apart() -> list[str]:
    """Fresh namespaces, and a session of their own."""
    options = [f"--unshare-{namespace}" for namespace in ("pid", "net", "ipc", "uts", "cgroup-try")]
    return [*options, "--new-session", "--hostname", "box"]


def view(more: tuple[Path, ...] = ()) -> list[str]:
    """Environment, files shown (and `more` of them), `/proc` and devices."""
    paths = (*shown(), *more)
    parents = {str(parent) for path in paths for parent in path.parents} - {"/"}
    options = ["--clearenv"]
    for name, value in environment().items():
        options += ["--setenv", name, value]
    for parent in sorted(parents):
        options += ["--perms", "0755", "--dir", parent]
    for path in paths:
        options += ["--ro-bind", str(path), str(path)]
    options += ["--proc", "/proc", "--dir", "/dev"]
    for device in DEVICES:
        options += ["--dev-bind", device, device]
    for name, target in STREAMS.items():
        options += ["--symlink", target, name]
    return options


def room(package: Path) -> list[str]:
    """A command that starts another one in a room where it may build boxes; `package` is where its code lies."""
    user = [] if privileged() else ["--unshare-user"]
    mounts = [word for folder in folders() for word in ("--dir", folder)]
    rights = ["--cap-add", "ALL"]
    return [
        "bwrap",
        *apart(),
        *user,
        *rights,
        *view((package,)),
        *mounts,
        "--remount-ro",
        "/",
        "--chdir",
        str(package.parent),
        "--",
    ]
