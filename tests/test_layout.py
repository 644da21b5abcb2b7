"""The shape of the tree: sizes of files and functions, and where private names of other libraries may stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src/corefold"
MAX_FILE_LINES = 330
MAX_FUNCTION_LINES = 60
INTERNALS = "src/corefold/adapters/host/internals.py"
"""The one file that may use private names of PEFT, transformers and torch. Its contract test says when they change."""

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
PRIVATE = re.compile(r"_(?!_)\w+")


def nothing_in(offenders: Iterable[str]) -> None:
    """Fail with all offenders, one a line."""
    if found := [*offenders]:
        pytest.fail("\n".join(["", *found]), pytrace=False)


def python_files() -> list[Path]:
    folders = ["src", "tests", "benchmarks", "reproduce", "examples"]
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_no_file_is_too_long():
    lengths = {name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in python_files()}
    nothing_in(f"{file}: {lines} lines" for file, lines in lengths.items() if lines > MAX_FILE_LINES)


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From the `def` to the end, without the docstring: a public one must say much."""
    first = function.body[0]
    text = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if text else 0)


def test_no_function_is_too_long():
    nothing_in(
        f"{name(file)}:{node.lineno} {node.name}: {lines} lines"
        for file in python_files()
        for node in ast.walk(tree(file))
        if isinstance(node, FUNCTION) and (lines := lines_of(node)) > MAX_FUNCTION_LINES
    )


def test_no_module_imports_a_package_around_it():
    """Such an import closes a circle through the package's `__init__`, which import-linter does not see."""
    nothing_in(
        f"{name(file)}:{node.lineno} from {node.module} import {imported.name}"
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("corefold.")
        for imported in node.names
        if (package := ROOT / "src" / node.module.replace(".", "/")) in file.parents
        and not ((package / imported.name).is_dir() or (package / f"{imported.name}.py").is_file())
    )


def test_private_names_of_other_libraries_stand_in_one_file():
    nothing_in(
        f"{name(file)}:{line} {private}"
        for file in sorted(SOURCE.rglob("*.py"))
        if name(file) != INTERNALS
        for line, private in foreign_private_names(tree(file))
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import torch._dynamo", ["_dynamo"]),
        ("from torch._dynamo import config", ["_dynamo"]),
        ("from peft.utils.other import _get_submodules as get", ["_get_submodules"]),
        ("model._tied_weights_keys", ["_tied_weights_keys"]),
        ("getattr(model, '_tied_weights_keys', ())", ["_tied_weights_keys"]),
        ("hasattr(torch, '_scaled_mm'), model.__class__, model.public", ["_scaled_mm"]),
        ("from corefold.core.linear import _whatever", []),
        ("import numpy as _numpy\n_numpy.array(1)", []),
    ],
)
def test_foreign_private_names_are_found(code, expected):
    assert [private for _, private in foreign_private_names(ast.parse(code))] == expected


def foreign_private_names(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name wherever code reaches for a private name that corefold does not define itself."""
    for node in ast.walk(module):
        for private in _reached(node):
            if PRIVATE.fullmatch(private) and private not in own_private_names():
                yield node.lineno, private


def _reached(node: ast.AST) -> list[str]:
    """Names that this node reads from an object or a module, whether it is an attribute, an import or a `getattr`."""
    match node:
        case ast.Attribute(attr=attribute):
            return [attribute]
        case ast.Import(names=names):
            return [part for each in names for part in each.name.split(".")]
        case ast.ImportFrom(module=module, names=names):
            parts = (module or "").split(".")
            return [] if parts[0] == "corefold" else [*parts, *(each.name for each in names)]
        case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr" | "delattr"), args=[_, second, *_]):
            return (
                [second.value] if isinstance(second, ast.Constant) and isinstance(second.value, str) else []
            )
    return []


@cache
def own_private_names() -> frozenset[str]:
    """Private functions, classes, variables and attributes that corefold's own code defines."""
    return frozenset(
        defined
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(tree(file))
        for defined in _defined(node)
    )


def _defined(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Name(id=name, ctx=ast.Store()):
            return [name]
        case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
            return [name]
    return []
