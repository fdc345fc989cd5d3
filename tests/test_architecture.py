"""The shape of the code, read from its imports: who may use whom, and what no file may do.

A file imports only from the levels above it, or from its own folder at its own level. `LEVELS` is the layout
table of the design; a file that no row names is a command, the lowest level, which nothing else imports.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]

# The first pattern that fits a module's name gives its level. At -1, above all, is what a run can be asked for.
COMMANDS = 5
LEVELS = [
    ("default", -1),
    ("partial_fc.center_storage", -1),
    ("partial_fc.augmentation", -1),
    ("partial_fc.exit_status", -1),
    ("partial_fc.log_files", -1),
    ("partial_fc.limited_child", -1),
    ("partial_fc.cores", -1),
    ("partial_fc.symbol_file", 0),
    ("partial_fc.config_f2c", -1),
    ("partial_fc.paper", 0),
    ("symbol*", 0),
    ("partial_fc", 0),
    ("partial_fc.config", 0),
    ("partial_fc.device", 0),
    ("partial_fc.collectives", 0),
    ("partial_fc.horovod_collectives", 1),
    ("partial_fc.rank_command", 2),
    ("partial_fc.head", 2),
    ("partial_fc.head.partial_fc", 2),
    ("partial_fc.head.f2c", 2),
    ("partial_fc.head.*", 1),
    ("partial_fc.data.__main__", COMMANDS),
    ("partial_fc.data.verbs*", 2),
    ("partial_fc.data*", 1),
    ("partial_fc.mixed_precision", 2),
    ("partial_fc.optimizer", 2),
    ("partial_fc.schedule", 2),
    ("partial_fc.backbone", 2),
    ("partial_fc.network_cost", 1),
    ("partial_fc.cost_model", 3),
    ("partial_fc.machine_speed", 3),
    ("partial_fc.guards", 1),
    ("partial_fc.watchdog", 1),
    ("partial_fc.step", 2),
    ("partial_fc.trainer", 3),
    ("partial_fc.gallery", 2),
    ("partial_fc.batch_statistics", 1),
    ("partial_fc.f2c_trainer", 3),
    ("partial_fc.f2c_run", 4),
    ("partial_fc.f2c_parts", 4),
    ("partial_fc.params_file", 0),
    ("partial_fc.checkpoint.__main__", 5),
    ("partial_fc.checkpoint*", 3),
    ("partial_fc.resume", 4),
    ("partial_fc.frozen", 1),
    ("partial_fc.evaluation", 0),
    ("partial_fc.evaluation.plain_pickle", 0),  # a format of files
    ("partial_fc.evaluation.verification_set", 0),
    ("partial_fc.evaluation.*", 3),
    ("partial_fc.onnx_file*", 4),
    ("partial_fc.face_embedder", 4),
    ("partial_fc.callbacks*", 4),
    ("partial_fc.plan_report", 4),
    ("partial_fc.plot.__main__", COMMANDS),
    ("partial_fc.plot*", 2),
    ("partial_fc.testing*", 6),
]
# One file speaks to each library of ranks, so that everything else runs without it.
COMMUNICATION = {"horovod": "partial_fc.horovod_collectives", "mpi4py": "partial_fc.horovod_collectives"}

# Leaving a rank is a part of the interface to the others: they must not wait for it.
MAY_EXIT = {"partial_fc.collectives", "partial_fc.horovod_collectives"}

EXITS = {"exit", "quit", "sys.exit", "os._exit", "os.abort", "SystemExit"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
RUNS_DATA = {
    f"{module}.{name}" for module in ("pickle", "cPickle", "marshal", "dill") for name in ("load", "loads")
} | {"pickle.Unpickler", "numpy.load", "np.load"}


def find_modules(root: Path) -> dict[str, Path]:
    """Every module of the project under `root` by its name."""
    modules = {}
    for folder, pattern in ((root, "*.py"), (root / "symbol", "**/*.py"), (root / "src", "**/*.py")):
        base = folder if folder.name == "src" else root
        for path in sorted(folder.glob(pattern)):
            parts = path.relative_to(base).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def level_of(module: str) -> int:
    return next((level for pattern, level in LEVELS if fnmatchcase(module, pattern)), COMMANDS)


def folder_of(module: str) -> str:
    """The part of the system that a module belongs to: its folder, or itself where it is in none."""
    parts = module.split(".")
    if parts[0] == "symbol":
        return "symbol"
    if module.startswith("partial_fc.testing"):
        return "partial_fc.testing"
    return ".".join(parts[:2])


def imported_names(tree: ast.Module, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import, those inside functions too; `from a import b` gives `a.b`."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{name.name}") for name in node.names)


def imported_modules(name: str, modules: dict[str, Path]) -> str | None:
    """The project's module that a dotted name is, or is an attribute of; None for other packages' names."""
    while name:
        if name in modules:
            return name
        name = name.rpartition(".")[0]
    return None


def read_imports(modules: dict[str, Path]) -> Iterator[tuple[str, int, str]]:
    """(module, line, dotted name that it imports), over all modules."""
    for module, path in modules.items():
        tree = ast.parse(path.read_text(), str(path))
        for line, name in imported_names(tree, module, path.name == "__init__.py"):
            yield module, line, name


def level_violations(modules: dict[str, Path]) -> list[str]:
    found = []
    for module, line, name in read_imports(modules):
        target = imported_modules(name, modules)
        if target is None or target == module:
            continue
        near = folder_of(target) == folder_of(module) and level_of(target) == level_of(module)
        if level_of(target) >= level_of(module) and not near:
            found.append(f"{modules[module]}:{line}: {module} is not below {target}, which it imports")
    return found


def communication_violations(modules: dict[str, Path]) -> list[str]:
    found = []
    for module, line, name in read_imports(modules):
        only = COMMUNICATION.get(name.split(".")[0])
        if only not in (None, module):
            found.append(f"{modules[module]}:{line}: only {only} imports {name.split('.')[0]}")
    return found


def cycles(modules: dict[str, Path]) -> list[str]:
    """Modules that import themselves by way of others, as the chain that leads back."""
    uses: dict[str, set[str]] = {module: set() for module in modules}
    for module, _, name in read_imports(modules):
        target = imported_modules(name, modules)
        if target not in (None, module):
            uses[module].add(target)
    done: set[str] = set()
    found: list[str] = []

    def visit(module: str, chain: list[str]) -> None:
        if module in chain:
            found.append(" -> ".join([*chain[chain.index(module) :], module]))
        elif module not in done:
            for target in sorted(uses[module]):
                visit(target, [*chain, module])
            done.add(module)

    for module in modules:
        visit(module, [])
    return found


def dotted(node: ast.expr) -> str:
    """`a.b.c` of such an expression, or an empty string."""
    if isinstance(node, ast.Attribute):
        value = dotted(node.value)
        return f"{value}.{node.attr}" if value else ""
    return node.id if isinstance(node, ast.Name) else ""


def handler_violation(node: ast.ExceptHandler) -> str | None:
    if node.type is None:
        return "a bare except"
    broad = dotted(node.type) in ("Exception", "BaseException")
    if broad and all(isinstance(statement, ast.Pass | ast.Continue) for statement in node.body):
        return f"an except {dotted(node.type)} that hides every error"
    return None


def call_violation(node: ast.Call, may_exit: bool) -> str | None:
    name = dotted(node.func)
    if name in RUNS_TEXT:
        return f"{name}() runs what a text says"
    # numpy.load is safe as it is called without allow_pickle.
    if name in RUNS_DATA and not (name.endswith(("numpy.load", "np.load")) and not has_pickle(node)):
        return f"{name}() runs what a file says"
    if name == "time.sleep":
        return "sleeping to wait"
    if name in EXITS and not may_exit:
        return f"{name}() outside main"
    return None


def has_pickle(node: ast.Call) -> bool:
    return len(node.args) > 2 or any(keyword.arg in ("allow_pickle", None) for keyword in node.keywords)


def is_main(node: ast.AST) -> bool:
    """`def main(…)`, or `if __name__ == "__main__":`: where a program may end itself."""
    if isinstance(node, ast.FunctionDef):
        return node.name == "main"
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def conduct_violations(modules: dict[str, Path]) -> list[str]:
    found = []

    def visit(node: ast.AST, module: str, may_exit: bool) -> None:
        why = None
        if isinstance(node, ast.ExceptHandler):
            why = handler_violation(node)
        elif isinstance(node, ast.Call):
            why = call_violation(node, may_exit)
        if why is not None:
            found.append(f"{modules[module]}:{node.lineno}: {why}")
        for child in ast.iter_child_nodes(node):
            visit(child, module, may_exit or is_main(node))

    for module, path in modules.items():
        visit(ast.parse(path.read_text(), str(path)), module, module in MAY_EXIT)
    return found


CHECKS = [level_violations, communication_violations, cycles, conduct_violations]


@pytest.mark.parametrize("check", CHECKS)
def test_the_project_keeps_to_the_rules(check):
    modules = find_modules(PROJECT)
    assert {"default", "symbol", "symbol.iresnet", "partial_fc.train", "partial_fc.head.margin"} <= {*modules}
    assert check(modules) == []


# ---- the checks see what they are for ----


def make_project(root: Path, **files: str) -> dict[str, Path]:
    """A project of the named files, `head__margin` standing for src/partial_fc/head/margin.py."""
    for name, text in files.items():
        top = name == "default" or name.startswith("symbol")
        path = root / ("" if top else "src/partial_fc") / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return find_modules(root)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config", "from partial_fc.trainer import Trainer"),
        ("trainer", "import partial_fc.callbacks"),
        ("trainer", "from partial_fc import callbacks"),
        ("trainer", "from . import callbacks"),
        ("trainer", "from .callbacks import Log as _Log"),
        ("trainer", "def f():\n    from partial_fc.callbacks import Log"),
        ("trainer", "import partial_fc.checkpoint"),  # its own level, and not its folder
        ("head__margin", "from ..data.loader import X"),
        ("head__margin", "import partial_fc.head.partial_fc"),
        ("symbol/layers", "import partial_fc.device"),
        ("default", "import symbol.layers"),
        ("train", "from partial_fc.testing import dense"),
        ("train", "import partial_fc.evaluate"),
    ],
)
def test_an_import_from_below_is_found(tmp_path, file, text):
    names = "config device trainer checkpoint callbacks evaluate testing train default symbol/layers"
    files = dict.fromkeys(names.split(), "") | dict.fromkeys(("head__margin", "data__loader"), "")
    files["head__partial_fc"] = ""
    found = level_violations(make_project(tmp_path, **(files | {file: text})))
    assert len(found) == 1, found


def test_imports_from_above_and_from_the_own_folder_are_allowed(tmp_path):
    modules = make_project(
        tmp_path,
        default="import os",
        config="import default",
        head__margin="import numpy",
        head__softmax="from .margin import Margin\nfrom partial_fc.head import margin",
        head__partial_fc="from partial_fc.head.softmax import Softmax",
        trainer="from partial_fc.head.partial_fc import PartialFC\nfrom partial_fc import config",
        train="import partial_fc.trainer",
    )
    assert level_violations(modules) == []


@pytest.mark.parametrize("text", ["import horovod.mxnet", "from horovod import mxnet", "import mpi4py"])
def test_communication_outside_its_file_is_found(tmp_path, text):
    modules = make_project(tmp_path, trainer=text, horovod_collectives=text)
    assert len(communication_violations(modules)) == 1


def test_a_cycle_is_found(tmp_path):
    modules = make_project(
        tmp_path,
        head__a="from partial_fc.head import b",
        head__b="from partial_fc.head.c import x",
        head__c="def f():\n    import partial_fc.head.a",
        head__d="import partial_fc.head.a",
    )
    chain = "partial_fc.head.a -> partial_fc.head.b -> partial_fc.head.c -> partial_fc.head.a"
    assert cycles(modules) == [chain]


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    f()\nexcept:\n    raise",
        "try:\n    f()\nexcept Exception:\n    pass",
        "eval(text)",
        "import pickle\npickle.load(file)",
        "import pickle\npickle.Unpickler(file).load()",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import time\ndef main():\n    time.sleep(1)",
        "import sys\ndef f():\n    sys.exit(1)",
        "def f():\n    raise SystemExit(1)",
    ],
)
def test_misconduct_is_found(tmp_path, text):
    assert len(conduct_violations(make_project(tmp_path, train=text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    f()\nexcept OSError:\n    pass",
        "try:\n    f()\nexcept BaseException:\n    clean()\n    raise",
        "import pickle\nclass Plain(pickle.Unpickler):\n    pass\nPlain(file).load()",
        "import numpy as np\nnp.load(path)",
        "import sys\ndef main():\n    sys.exit(1)",
        "import sys\nif __name__ == '__main__':\n    sys.exit(main())",
        "model.eval()",
    ],
)
def test_good_conduct_is_allowed(tmp_path, text):
    assert conduct_violations(make_project(tmp_path, train=text)) == []
