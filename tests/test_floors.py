"""Imports only go down: see the floors in docs/architecture.md."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {"root"},  # errors, log, paths, ram
    {"text", "sandbox"},
    {"kernels", "data", "accounts"},
    {"model"},
    {"engine"},
    {"server", "training", "evaluation"},
    {"cli", "recipes"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
WITHOUT_TORCH = ("root", "text", "sandbox", "data", "accounts")
# These import late on purpose: the public names are lazy, and `--help` must not wait for torch.
MAY_IMPORT_LATE = ("coderv2.__init__", "coderv2.cli")

Import = tuple[str, int, bool]  # module that is imported, line, whether at the top level


def _modules() -> dict[str, Path]:
    files = [*ROOT.glob("coderv2/**/*.py"), *ROOT.glob("recipes/**/*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in files}


def _imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text("utf-8"))
    inner = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
        for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] in ("coderv2", "recipes"):
                yield name, node.lineno, id(node) not in inner


def _room(module: str) -> str:
    parts = module.split(".")
    if parts[0] == "recipes":
        return "recipes"
    name = parts[1] if len(parts) > 1 else "__init__"
    return "root" if name in ("errors", "log", "paths", "ram") else name


MODULES = _modules()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_only_lower_floors_and_its_own_room(module: str) -> None:
    room = _room(module)
    for name, line, at_top in _imports(MODULES[module]):
        late = module.startswith(MAY_IMPORT_LATE)
        assert at_top or late, f"{MODULES[module]}:{line}: import of {name} inside a function"
        if module != "coderv2.__init__" and _room(name) != room:
            assert FLOOR.get(_room(name), -1) < FLOOR[room], (
                f"{MODULES[module]}:{line}: {room} must not import {name}"
            )


def test_every_room_has_a_floor() -> None:
    assert {_room(m) for m in MODULES} - {"__init__", "__version__"} <= FLOOR.keys()


def test_there_is_no_import_cycle() -> None:
    graph = {}
    for module, path in MODULES.items():
        names = {name for name, _, at_top in _imports(path) if at_top and module != "coderv2.__init__"}
        graph[module] = {m for n in names for m in (n, n.rpartition(".")[0]) if m in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(error.args[1])}")


def test_lower_floors_do_not_load_torch() -> None:
    light = [m.removesuffix(".__init__") for m in MODULES if _room(m) in WITHOUT_TORCH]
    code = f"import sys, {', '.join(light)}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_no_file_is_named_like_a_standard_module_or_like_nothing_in_particular() -> None:
    vague = {"utils", "common", "core", "helpers", "misc"}
    for module, path in MODULES.items():
        assert path.stem.startswith("__") or path.stem not in sys.stdlib_module_names | vague, module
        assert path.read_text("utf-8").strip(), f"{path} is empty"
