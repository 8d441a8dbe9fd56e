"""Code taken out of a chat model's reply."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from textwrap import indent
from types import MappingProxyType

_LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")
"""As Python and Markdown count lines; `str.splitlines` also ends them at form feeds and U+2028."""
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^\s`{]*)[^`]*$")
_TAGS = {
    "python": {"py", "python3"},
    "cpp": {"c++", "cc", "cxx"},
    "csharp": {"c#", "cs"},
    "javascript": {"js", "node"},
    "typescript": {"ts"},
    "bash": {"sh", "shell", "zsh"},
    "go": {"golang"},
    "rust": {"rs"},
    "racket": {"rkt", "scheme", "lisp"},
    "julia": {"jl"},
    "d": {"dlang"},
}

Effects = Mapping[str, set[str]]
"""Of functions: the names outside of them that a call changes."""
_NO_EFFECTS: Effects = MappingProxyType({})


@dataclass(frozen=True)
class Block:
    """A fenced block: the word after its fence in small letters, and what it holds."""

    tag: str
    code: str


def blocks(reply: str) -> Iterator[Block]:
    """All fenced blocks, in order. One that is never closed goes on to the end of the reply."""
    fence, tag, lines = "", "", list[str]()
    for line in _LINE_END.split(reply):
        match = _FENCE.match(line.rstrip())
        if not fence:
            if match:
                fence, tag, lines = match[1], match[2].lower(), []
        elif match and match[1].startswith(fence) and not match[2]:
            yield Block(tag, "".join(lines))
            fence = ""
        else:
            lines.append(line)
    if fence:
        yield Block(tag, "".join(lines))


def block(reply: str, language: str) -> str | None:
    """The program in a reply: the first block tagged with the language, else the first block.

    Without a block, text before a fence that only closes (the prompt had opened it), or a reply that is Python as it
    stands; else None: there is no code.
    """
    closed = _before_its_only_fence(reply)
    if closed and language == "python" and (_is_program(closed) or _parsed(f"def f():\n{closed}")):
        return closed
    found = [part for part in blocks(reply) if part.code.strip()]
    tagged = [part for part in found if _is_tag(part.tag, language)]
    if found:
        return (tagged or found)[0].code
    return closed or (reply if language == "python" and _is_program(reply) else None)


def function(reply: str, prompt: str, entry_point: str) -> str | None:
    """The Python function that a reply gives, with all that it needs and nothing that shows it off.

    A reply that holds only the function's body is put behind the prompt. Imports of the prompt come first: replies
    often leave them out. None when the reply holds no code.
    """
    candidates = [part.code for part in blocks(reply) if _defines(part.code, entry_point)]
    code = candidates[0] if candidates else block(reply, "python")
    if code is None:
        return None
    if not _defines(code, entry_point):
        code = _behind(prompt, code, entry_point)
    return joined(_imports(prompt), needed(code, entry_point))


def joined(*parts: str) -> str:
    """The parts as one program: their `from __future__ import …` come first, where alone Python takes them."""
    first, rest = list[str](), list[str]()
    for part in parts:
        tree = _parsed(part)
        future = _lines(filter(_is_future, tree.body)) if tree else set()
        for number, line in enumerate(_LINE_END.split(part)):
            (first if number in future else rest).append(line)
    return "".join(first + rest)


def needed(code: str, entry_point: str) -> str:
    """Imports, and the top-level statements that the entry point depends on; the code itself if it is not Python."""
    tree = _parsed(code)
    if tree is None:
        return code
    statements = [node for node in tree.body if not _is_main_guard(node)]
    effects = _effects(node for node in statements if entry_point not in _bound(node))
    names, before = {entry_point, "sys"}, -1
    while before != len(names):
        before = len(names)
        for node in statements:
            if _bound(node, effects) & names:
                names |= _loaded(node)
    kept = _lines(node for node in statements if _is_import(node) or _bound(node, effects) & names)
    return "".join(line for number, line in enumerate(_LINE_END.split(code)) if number in kept)


def _before_its_only_fence(reply: str) -> str | None:
    parts = re.split(r"(?m)^ {0,3}```[ \t]*$", reply)
    return parts[0] if len(parts) == 2 and parts[0].strip() and "```" not in parts[0] else None


def _is_tag(tag: str, language: str) -> bool:
    return tag == language or tag in _TAGS.get(language, ())


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_program(text: str) -> bool:
    """Plain words may be valid Python too: a program does something."""
    tree = _parsed(text)
    return tree is not None and any(
        not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in tree.body
    )


def _defines(code: str, name: str) -> bool:
    tree = _parsed(code)
    return tree is not None and any(name in _bound(node) for node in tree.body if not _is_call(node))


def _behind(prompt: str, code: str, entry_point: str) -> str:
    """Prompt and body, indented where the reply has it at the margin; the reply itself where that is no program."""
    if _parsed(code) is None or _returns(code):
        body = code if code.lstrip("\n").startswith((" ", "\t")) else indent(code, "    ")
        if _defines(prompt + body, entry_point):
            return prompt + body
    return code


def _returns(code: str) -> bool:
    tree = _parsed(code)
    return tree is not None and any(
        isinstance(node, ast.Return) for part in tree.body for node in _outside(part)
    )


def _outside(node: ast.AST) -> Iterator[ast.AST]:
    """What is not inside a function of its own; without recursion, for replies nest as deep as they like."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        yield part
        if not isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(part)


def _imports(prompt: str) -> str:
    tree = _parsed(prompt) or _parsed(prompt.rstrip() + "\n    pass\n")
    nodes = [node for node in tree.body if _is_import(node)] if tree else []
    return "".join(f"{ast.unparse(node)}\n" for node in nodes)


def _is_import(node: ast.stmt) -> bool:
    if isinstance(node, ast.Try | ast.If):
        return any(map(_is_import, node.body))
    return isinstance(node, ast.Import | ast.ImportFrom)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _is_call(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr)


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in _loaded(node.test)


def _bound(node: ast.stmt, effects: Effects = _NO_EFFECTS) -> set[str]:
    """What a statement defines or changes: `x = …`, `x[i] = …`, `x.append(…)`, or `f(…)` where f does that."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if _is_import(node):
        return set()
    parts = list(ast.walk(node))
    called = {part.func.id for part in map(_bare_call, parts) if part and isinstance(part.func, ast.Name)}
    return {name for part in parts for name in _changed(part)}.union(*(effects.get(f, ()) for f in called))


def _effects(statements: Iterable[ast.stmt]) -> Effects:
    return {node.name: _outer(node) for node in statements if isinstance(node, ast.FunctionDef)}


def _outer(function: ast.FunctionDef) -> set[str]:
    """The names outside of a function that a call changes."""
    parts = list(ast.walk(function))
    own = {part.arg for part in parts if isinstance(part, ast.arg)}
    own |= {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    shared = {name for part in parts if isinstance(part, ast.Global) for name in part.names}
    return {name for part in parts for name in _changed(part)} - (own - shared)


def _changed(part: ast.AST) -> Iterator[str]:
    target: ast.AST | None = None
    if isinstance(part, ast.Name | ast.Subscript | ast.Attribute) and isinstance(part.ctx, ast.Store):
        target = part
    elif (call := _bare_call(part)) and isinstance(call.func, ast.Attribute):
        target = call.func
    while isinstance(target, ast.Subscript | ast.Attribute):
        target = target.value
    if isinstance(target, ast.Name):
        yield target.id


def _bare_call(part: ast.AST) -> ast.Call | None:
    return part.value if isinstance(part, ast.Expr) and isinstance(part.value, ast.Call) else None


def _loaded(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _lines(nodes: Iterable[ast.stmt]) -> set[int]:
    """The lines, counted from 0, that the statements stand on."""
    return {
        number for node in nodes for number in range(_first_line(node) - 1, node.end_lineno or node.lineno)
    }


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])
