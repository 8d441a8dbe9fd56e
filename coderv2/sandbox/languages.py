"""The languages that can be judged: how each is compiled, run, and made to prove that its tests came to their end."""

import sys
from dataclasses import dataclass

from coderv2.errors import InvalidValue

_QUICK_START = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData"


@dataclass(frozen=True)
class Language:
    """How one language is compiled and run. In commands, `{heap}` is megabytes for the runtime and `{main}` a class."""

    name: str
    file: str  # what its compiler wants the source to be called
    package: str  # Debian's package, or where else to get it
    run: str
    compile: str | None = None
    tell: str = (
        ""  # a statement that prints the first {} and at once the second, which do not touch in its text
    )
    leaves: str = ""  # a mark after which its files go on as mere text
    closing: int = 0  # braces that close the program after its last test
    wrong: str = "AssertionError"  # what a failed assertion leaves in the standard error
    silent: bool = False  # a failed assertion leaves the exit status 0
    syntax: str = ""  # what a program that cannot be read leaves there, where nothing is compiled


LANGUAGES = [
    Language(
        "python",
        "program.py",
        "python3",
        f"{sys.executable} program.py",
        tell='__import__("os").write(1, b"\\n{}" + b"{}\\n")',
        syntax="SyntaxError",
    ),
    Language(
        "cpp",
        "program.cpp",
        "g++",
        "./program",
        "g++ -std=c++17 -o program program.cpp",
        tell='__builtin_puts("{}" "{}");',
        closing=1,
        wrong="Assertion `",
    ),
    Language(
        "java",
        "Main.java",
        "default-jdk-headless (and libjavatuples-java)",
        "java -ea -Xmx{heap}m -Xss64m " + _QUICK_START + " -cp .:{jars} {main}",
        "javac -J-Xmx{heap}m -J-XX:+UseSerialGC -J-XX:TieredStopAtLevel=1 -nowarn -encoding UTF-8 "
        "-cp {jars} -d . Main.java",
        tell='System.out.println("{}" + "{}");',
        closing=2,
    ),
    Language(
        "csharp",
        "program.cs",
        "mono-mcs",
        "mono --debug program.exe",
        "mcs -nologo -debug -d:DEBUG -r:System.Numerics.dll -out:program.exe program.cs",
        tell='System.Console.WriteLine("{}" + "{}");',
        closing=2,
        wrong="System.Diagnostics.Debug.Assert",
        silent=True,
    ),
    Language(
        "php",
        "program.php",
        "php-cli",
        "php -d memory_limit={heap}M program.php",
        tell='echo "{}", "{}\\n";',
        leaves="?>",
        wrong="Test failed!",
    ),
    Language(
        "javascript",
        "program.js",
        "nodejs",
        "node --max-old-space-size={heap} program.js",
        tell='console.log("{}" + "{}");',
    ),
    Language(
        "typescript",
        "program.ts",
        "nodejs and node-typescript",
        "node --max-old-space-size={heap} program.js",
        "tsc --target es2020 --module commonjs program.ts",
        tell='console.log("{}" + "{}");',
    ),
    Language(
        "bash",
        "program.sh",
        "bash",
        "bash program.sh",
        tell="printf '%s%s\\n' {} {}",
        wrong="$^",
    ),
    Language(
        "go",
        "program_test.go",
        "golang-go",
        "./program",
        "go test -c -vet=off -o program program_test.go",
        tell='fmt.Println("{}" + "{}")',
        closing=1,
        wrong="--- FAIL",
    ),
    Language(
        "rust",
        "program.rs",
        "rustc",
        "./program",
        "rustc -o program program.rs",
        tell='print!("{}"); println!("{}");',
        closing=1,
        wrong="assertion",
    ),
    Language(
        "d",
        "program.d",
        "ldc",
        "./program --DRT-testmode=run-main",  # which else does not run where there are unit tests
        "ldc2 -unittest -of=program program.d",
        tell='import core.stdc.stdio; printf("{}"); puts("{}");',
        closing=1,
        wrong="unittest",
    ),
    Language(
        "r",
        "program.R",
        "r-base-core",
        "Rscript program.R",
        tell='cat("{}"); cat("{}\\n")',
        wrong="is not TRUE",
    ),
    Language(
        "racket",
        "program.rkt",
        "racket",
        "racket program.rkt",
        tell='(display "{}") (displayln "{}")',
        wrong="FAILURE",
        silent=True,
        syntax="read-syntax",
    ),
    Language(
        "julia",
        "program.jl",
        "Julia from julialang.org",
        "julia program.jl",
        tell='print("{}"); println("{}")',
        wrong="Test Failed",
    ),
    Language(
        "swift",
        "program.swift",
        "Swift from swift.org, or Debian 13's swiftlang",
        "./program",
        "swiftc -o program program.swift",
        tell='print("{}" + "{}")',
        wrong="Assertion failed",
    ),
]
_BY_NAME = {language.name: language for language in LANGUAGES}
_ALIASES = {
    "py": "python",
    "python3": "python",
    "c++": "cpp",
    "cc": "cpp",
    "c#": "csharp",
    "cs": "csharp",
    "js": "javascript",
    "ts": "typescript",
    "sh": "bash",
    "shell": "bash",
    "golang": "go",
    "rs": "rust",
    "rkt": "racket",
    "jl": "julia",
}


def language(name: str) -> Language:
    """The language by its name or one of its usual short ones, in any case."""
    lower = name.lower()
    found = _BY_NAME.get(_ALIASES.get(lower, lower))
    if found is None:
        raise InvalidValue(
            f"no language {name!r} can be judged; there are {', '.join(_BY_NAME)}", param="language"
        )
    return found
