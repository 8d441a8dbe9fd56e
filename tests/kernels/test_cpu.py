"""Which build of the kernels is used."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from coderv2.errors import Unsupported
from coderv2.kernels import cpu

SOURCES = sorted((Path(__file__).parents[2] / "coderv2/kernels/cpu").glob("*.cpp"))
_WHICH = "from coderv2.kernels import cpu, native, native_attention; print(cpu.isa(), native.kernels is cpu.kernels)"


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler here")
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64", "arm64"), reason="no kernels for this processor"
)
def test_where_a_compiler_is_kernels_were_built() -> None:
    # Else every other test of the kernels would be skipped, and nobody the wiser.
    flags = cpu._flags()
    assert not flags or cpu.available() or not any(needs <= flags for needs in cpu.NEEDS.values())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("clang++"), reason="clang is not installed")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_clang_takes_what_gcc_takes(source: Path) -> None:
    nanobind = pytest.importorskip("nanobind")
    arm = platform.machine() in ("aarch64", "arm64")
    flags = ["-march=armv8.2-a+dotprod"] if arm else ["-mavx2", "-mfma", "-mf16c"]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-Wno-uninitialized"]
    headers = ["-isystem", nanobind.include_dir(), "-isystem", sysconfig.get_path("include")]
    options = ["-std=c++20", "-fsyntax-only", "-DMODULE=_m", *flags, *warnings, *headers]
    done = subprocess.run(["clang++", *options, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("isa", [*cpu.available(), "none"])
def test_one_is_forced_by_its_name(isa: str) -> None:
    done = _python(_WHICH, CODERV2_ISA=isa)
    assert done.stdout == f"{'None' if isa == 'none' else isa} True\n", done.stderr


def test_an_empty_variable_leaves_the_choice_to_us() -> None:
    best = next(iter(cpu.available()), None)
    assert _python(_WHICH, CODERV2_ISA="").stdout == f"{best} True\n"


def test_a_name_that_this_machine_lacks_is_one_error_with_the_choices() -> None:
    done = _python(_WHICH, CODERV2_ISA="mmx")
    assert done.returncode == 1
    choices = ", ".join([*cpu.available(), "none"])
    assert done.stderr.splitlines()[-1].endswith(f"CODERV2_ISA is 'mmx'; here one of {choices}")


def test_the_command_line_says_it_in_one_line() -> None:
    done = _python("from coderv2.cli.main import main; main(['complete', 'x'])", CODERV2_ISA="mmx")
    assert done.returncode == 2
    assert done.stderr.startswith("coderv2: CODERV2_ISA is 'mmx'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        (cpu.NEEDS["amx"] | cpu.NEEDS["avx2"], "amx"),
        (cpu.NEEDS["avx512"] | cpu.NEEDS["avx2"], "avx512"),
        ((cpu.NEEDS["avx512"] | cpu.NEEDS["avx2"]) - {"avx512_bf16"}, "avx2"),
        (cpu.NEEDS["avx2_vnni"], "avx2_vnni"),
        (cpu.NEEDS["avx2"] - {"fma"}, None),
        (frozenset(), None),
    ],
)
def test_the_best_is_what_the_processor_has_all_of(
    monkeypatch: pytest.MonkeyPatch, flags: frozenset[str], best: str | None
) -> None:
    monkeypatch.setattr(cpu, "_flags", lambda: flags)
    monkeypatch.setattr(cpu, "find_spec", lambda name: object())
    assert next(iter(cpu.available()), None) == best


def test_what_was_not_built_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_flags", lambda: cpu.NEEDS["avx512"] | cpu.NEEDS["avx2"])
    monkeypatch.setattr(cpu, "find_spec", lambda name: None)
    monkeypatch.delenv("CODERV2_ISA", raising=False)
    assert cpu.available() == []
    assert cpu._kernels() is None
    monkeypatch.setenv("CODERV2_ISA", "avx2")
    with pytest.raises(Unsupported, match="here one of none"):
        cpu._kernels()


@pytest.mark.skipif(not cpu.available(), reason="no kernels were built")
def test_threads_are_those_of_the_variable() -> None:
    code = "from coderv2.kernels import cpu; print(cpu.kernels.threads())"
    best = cpu.available()[0]
    assert _python(code, CODERV2_THREADS="3", CODERV2_ISA=best).stdout == "3\n"
    done = _python(code, CODERV2_THREADS="many", CODERV2_ISA=best)
    assert "CODERV2_THREADS must be a whole number" in done.stderr


def test_where_the_system_refuses_matrix_registers_avx512_computes_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = SimpleNamespace(set_threads=lambda count: None, use_tiles=lambda wanted: False)
    monkeypatch.setattr(cpu, "_flags", lambda: cpu.NEEDS["amx"])
    monkeypatch.setattr(cpu, "find_spec", lambda name: object())
    monkeypatch.setattr(cpu, "importlib", SimpleNamespace(import_module=lambda name: module))
    monkeypatch.delenv("CODERV2_ISA", raising=False)
    assert cpu._kernels() is module
    assert "avx512 in place of amx" in caplog.text
    monkeypatch.setenv("CODERV2_ISA", "amx")
    with pytest.raises(Unsupported, match="CODERV2_ISA=avx512"):
        cpu._kernels()
