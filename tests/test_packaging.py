"""The package as it is built: every folder is listed, imports run one way, nothing heavy comes along."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

import fxprune

ROOT = Path(__file__).parent.parent


def test_every_package_folder_is_listed() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib is part of Python from 3.11 on")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {p.parent.relative_to(ROOT) for p in (ROOT / "fxprune").rglob("__init__.py") if "passes" not in p.parts}
    assert set(listed) == {".".join(folder.parts) for folder in folders} | {"fxprune.passes"}


def test_the_files_of_pages_are_package_data() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib is part of Python from 3.11 on")
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = ROOT / "fxprune" / "render"
    listed = {path for pattern in data["fxprune.render"] for path in folder.glob(pattern)}
    assert listed == {path for path in folder.rglob("*") if path.suffix in (".html", ".css", ".js")}


def test_passes_lie_beside_the_compiler() -> None:
    link = ROOT / "fxprune" / "passes"
    assert link.is_symlink()
    assert link.resolve() == ROOT / "passes"


# Bottom up: each imports only from those below it, and a pair in braces nothing of each other.
LEVELS = (
    *("ir", "ops", "weights", "gates", "facts", "costs", "structures", "choosing", "rewriting", "passes"),
    *("tracing", "emission", "diffing", "pipelines", "sources", "render", "pruning", "training", "cli"),
)
BESIDE = ({"weights", "gates"}, {"tracing", "emission", "diffing"}, {"pipelines", "sources"})


def modules() -> dict[str, Path]:
    """Return the project's modules by name."""
    found = {}
    for folder, package in ((ROOT / "fxprune", "fxprune"), (ROOT / "passes", "fxprune.passes")):
        for path in folder.rglob("*.py"):
            if folder.name == "fxprune" and "passes" in path.relative_to(folder).parts:
                continue
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports() -> nx.DiGraph[str]:
    """Return the graph of imports between the project's modules, those for type hints and in functions included."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    known = modules()
    for name, path in known.items():
        for statement in ast.walk(ast.parse(path.read_text())):
            if not isinstance(statement, ast.ImportFrom) or not str(statement.module).startswith("fxprune"):
                continue
            for alias in statement.names:
                whole = f"{statement.module}.{alias.name}"
                graph.add_edge(name, whole if whole in known else str(statement.module))
    return graph


def level(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_there_is_no_import_circle() -> None:
    graph = imports()
    graph.remove_nodes_from(["fxprune", "fxprune.passes"])  # these two only collect names
    assert list(nx.simple_cycles(graph)) == []


def test_every_folder_is_on_a_level() -> None:
    assert {path.parent.name for path in (ROOT / "fxprune").glob("*/__init__.py")} == set(LEVELS)


def test_imports_go_down() -> None:
    up = []
    for name, target in imports().edges:
        one, other = level(name), level(target)
        if one in LEVELS and other in LEVELS and LEVELS.index(other) > LEVELS.index(one):
            up += [] if any({one, other} <= pair for pair in BESIDE) else [(name, target)]
    assert up == []


def test_the_compiler_knows_no_pass_by_name() -> None:
    chains = "fxprune.passes.chains"  # those that make a plain network: data, which whoever finishes one may name
    knows = {name for name, target in imports().edges if target.startswith("fxprune.passes") and target != chains}
    allowed = (
        "fxprune.pipelines",  # chains of them, and passes by name
        *(
            f"fxprune.pruning.{name}"
            for name in ("choose", "channel_step", "mixed_choice", "layer_sites", "pruning_plan", "partition_plans")
        ),  # of plans
        "fxprune.pruning.emitted",  # what would be emitted
        "fxprune.pruning.closed_removal",  # what is trained on with
        "fxprune.pruning.random_prunings",  # what a model of latency is fitted to
        "fxprune.pruning.blend.judge",  # what a cut comes to
        "fxprune.passes",
        "fxprune.pruning.prune",
        "fxprune.pruning.ucp",
        "fxprune.pruning.untrained",
        "fxprune.training",
    )
    assert {name for name in knows if not name.startswith(allowed)} == set()


def test_facts_and_instruments_import_no_pass_and_passes_no_instrument() -> None:
    instruments = ("pipelines", "diffing", "emission", "render", "cli")
    for name, target in imports().edges:
        if name.startswith(("fxprune.passes", "fxprune.facts")):
            assert target.partition(".")[2].partition(".")[0] not in instruments, name
        if name.startswith("fxprune.facts"):
            assert not target.startswith("fxprune.passes"), name


def test_importing_fxprune_pulls_in_no_shell_and_no_torchvision() -> None:
    heavy = ("torchvision", "click", "rich", "sklearn", "timm", "matplotlib", "networkx", "accelerate")
    code = f"import sys, fxprune; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_what_is_seldom_asked_for_is_loaded_then() -> None:
    code = (
        "import sys, fxprune\n"
        "late = ('fxprune.diffing.graph_diff', 'fxprune.emission.codegen', 'tabulate', 'safetensors')\n"
        "before = [m for m in late if m in sys.modules]\n"
        "from fxprune import *\n"
        "print(before, GraphDiff.__module__, callable(fxprune.diff), callable(fxprune.emit))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[] fxprune.diffing.graph_diff True True"


def test_importing_fxprune_loads_nothing_until_it_is_asked_for() -> None:
    code = (
        "import sys, fxprune\n"
        "loaded = [m for m in sys.modules if m.startswith(('fxprune.', 'torch'))]\n"
        "names = {name: getattr(fxprune, name) for name in fxprune.__all__}\n"
        "assert set(fxprune.__all__) <= set(dir(fxprune))\n"
        "assert fxprune.trace is names['trace']\n"
        "assert callable(fxprune.pruning.parameter_groups) and fxprune.passes.Simplify\n"
        "assert not hasattr(fxprune, 'no_such_name') and not hasattr(fxprune, '__main__')\n"
        "print(loaded)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_names_that_are_loaded_late_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "fxprune" / "__init__.py").read_text())
    told = {
        alias.name: statement.module
        for statement in ast.walk(tree)
        if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith("fxprune.")
        for alias in statement.names
    }
    assert set(told) == set(fxprune.__all__)
    assert told == fxprune._HOME


@pytest.mark.parametrize(
    ("old", "new", "member"),
    [
        ("fxprune.sparsity", "fxprune.pruning", "parameter_groups"),
        ("fxprune.graph", "fxprune.ir.nodes", "called_module"),
        ("fxprune.trace_notes", "fxprune.ir.trace_notes", "assumptions_of"),
    ],
)
def test_names_of_before_warn_once_and_are_the_same(old: str, new: str, member: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} goes with 0.2; .*{new}$") as told:
        module = importlib.import_module(old)
    assert len(told) == 1
    assert getattr(module, member) is getattr(importlib.import_module(new), member)
    assert importlib.import_module(old) is module
