"""The rules of the house: how large files and functions may be, and which folder may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pipeline_anime_ddpm"
# They travel to the Hub alone, each in one file. The first is written from PACKAGE / "pipeline", where the limits hold.
GENERATED, TRAVELLING = PACKAGE / "pipeline_anime_ddpm.py", {"scheduling_anime_noise.py": 800}
FOLDERS = ("pipeline_anime_ddpm", "schedulers", "benchmarks", "tests")
SOURCES = [
    *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) if path != GENERATED),
    ROOT / "train_anime_ddpm.py",
    ROOT / "app.py",
]

# Each folder may import those before it. Modules of the package's own folder stand by themselves.
FLOORS = [
    {"common", "synthetic"},
    {"pipeline_anime_ddpm", "schedulers"},
    {"loading", "openvino_backend"},
    {"data"},
    {"training"},
    {"runs"},
    {"evaluation", "planning", "demo", "exporting"},
    {"publishing"},
    {"recipe", "cache_command"},
    {"cli"},
    {"__main__"},
    {"pipeline"},  # what `pipeline_anime_ddpm` is written from: nothing imports it
]

# Modules without a test file of their name, and what tests them.
TESTED_ELSEWHERE = {
    "__main__.py": "it calls `cli.main`; common/test_pipes.py starts it",
    "pipeline_anime_ddpm.py": "the folder tests/pipeline_anime_ddpm/pipeline/",
    "pipeline/": "the same folder: the modules are the parts of that one file",
    "schedulers/scheduling_anime_noise.py": "the folder tests/pipeline_anime_ddpm/schedulers/, by what is asked",
    "evaluation/metrics/registry.py": "a table; the metrics in it, by test_distances.py and ../test_recipe.py",
    "training/settings.py": "settings; common/test_settings.py and training/test_config.py",
    "training/output_settings.py": "settings; the same",
    "training/upscaling/network.py": "test_flags.py, and end_to_end/test_upscaler_runs.py",
    "training/upscaling/samples.py": "end_to_end/test_upscaler_runs.py",
    "exporting/network.py": "test_command.py, which exports and compares",
    "exporting/recipe.py": "test_command.py and test_drawing.py",
}


def floor_of(module: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if module in names)


def functions(path: Path) -> list[tuple[str, int]]:
    """Names and lengths in lines, docstrings not counted."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            body = node.body[0]
            has_doc = ast.get_docstring(node, clean=False) is not None
            found.append((node.name, node.end_lineno - first + 1 - has_doc * (body.end_lineno - body.lineno + 1)))
    return found


def imports(path: Path) -> set[str]:
    """The folders, or modules, of the package that a file imports when it is loaded."""
    here, found = path.relative_to(PACKAGE).parts[:-1], set()
    tree = ast.parse(path.read_text())
    checked_only = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node)
    ]
    left_out = {id(inner) for node in checked_only for inner in ast.walk(node)}
    for node in tree.body:
        for inner in ast.walk(node):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) or id(inner) in left_out:
                continue
            if isinstance(inner, ast.ImportFrom):
                above = here[: len(here) - inner.level + 1] if inner.level else ()
                whole = [*above, *(inner.module or "").split(".")] if inner.level else inner.module.split(".")[1:]
                if inner.level or inner.module.split(".")[0] == "pipeline_anime_ddpm":
                    found.add(next(filter(None, whole), "pipeline_anime_ddpm"))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_fit_on_a_screen_or_two(path):
    assert len(path.read_text().splitlines()) <= TRAVELLING.get(path.name, 400)
    if "tests" not in path.parts:
        assert [name for name, length in functions(path) if length > 50] == []


def test_recipe_is_short():
    assert len((ROOT / "train_anime_ddpm.py").read_text().splitlines()) <= 250
    assert len((ROOT / "app.py").read_text().splitlines()) <= 40


def test_folders_have_at_most_a_dozen_files():
    for folder in [path for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"]:
        assert len([file for file in folder.glob("*.py") if file.name != "__init__.py"]) <= 12, folder


def test_arrows_point_one_way():
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).parts
        own = parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for other in imports(path):
            assert other == own or floor_of(other) < floor_of(own), f"{path} imports {other}"


def test_remote_code_files_import_nothing_of_the_package():
    for path in (GENERATED, PACKAGE / "schedulers" / "scheduling_anime_noise.py"):
        assert not any(
            isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("pipeline_anime"))
            for node in ast.walk(ast.parse(path.read_text()))
        )


def test_each_module_has_a_test_file_of_its_name():
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        mirrored = ROOT / "tests" / "pipeline_anime_ddpm" / name.parent / f"test_{name.name}"
        if name.name != "__init__.py" and not mirrored.is_file():
            missing.append(name.as_posix())
    untested = [name for name in missing if not name.startswith(tuple(TESTED_ELSEWHERE))]
    assert untested == [], "write a test file of that name, or say in TESTED_ELSEWHERE what tests the module"
    assert [entry for entry in TESTED_ELSEWHERE if not any(name.startswith(entry) for name in missing)] == []
