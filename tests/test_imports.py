"""Imports go one way, and heavy packages are imported by the files that are for them alone."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeres

ROOT = Path(edgeres.__file__).parent
LAYERS = (
    {"__main__"},
    {"cli", "pytest_plugin"},
    {"tune", "fleet"},
    {"pipeline", "ab", "baseline", "annotations", "junit", "loadgen"},
    {"cells"},
    {"explain", "limits"},
    {"inspect"},
    {"lint"},
    {"export", "quantization", "measure", "evaluate", "report"},
    {"regions"},
    {"engines", "foreign"},
    {"backends", "frames", "parity"},
    {"boxes", "data", "models", "onnx_io", "canonical", "machine", "progress", "provenance", "qdq", "recipe", "gate"},
    {"archive", "onnx_limits"},
    {"significance"},
    {"store", "schema", "bootstrap", "figures", "labels", "pixels"},
    {"signature"},
    {"disk"},
    {"locks", "processes", "types"},
    {"errors"},
)
"""From the top: a part imports parts of lower layers alone, not its siblings."""
EXACT = ("quantization/simulate.py", "quantization/walk.py")
"""They compute in ONNX Runtime, whatever runtime the file is for."""
REMOTE = ("fleet/ssh.py", "fleet/status.py", "fleet/tls.py")
"""They are imported where `edgeres[devices]` is needed, and nowhere else."""
HEAVY = {
    "torch": {
        "export.py",
        *(f"models/{name}.py" for name in ("checkpoint", "detection", "layouts", "pickled", "program", "resnet")),
        "models/tracing.py",
    },
    "safetensors": {"models/checkpoint.py"},
    "onnxscript": set(),
    "onnxruntime": {"parity.py", "regions.py", "foreign/convert.py", "foreign/read.py", "foreign/simplify.py"}
    | {"backends/onnxruntime.py", "backends/onnxruntime_emulated_child.py", *EXACT},
    "openvino": {"backends/openvino.py"},
    "tensorrt": {"backends/tensorrt.py"},
    "tensorrt_rtx": {"backends/tensorrt.py"},
    "mlperf_loadgen": {"loadgen/system.py"},
    "pytest": {"pytest_plugin.py"},
    "asyncssh": {"fleet/ssh.py"},
    "cryptography": {"signature.py", "fleet/certificates.py"},
}
"""Package -> the files that may import it."""
BASE = {"numpy", "onnx", "onnx_ir", "google", "PIL", "pydantic", "rich", "tomli", "tomllib", "typer"}
"""What the base install brings beside the standard library, as it is imported."""
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def part(file: str) -> str:
    """The module or the subpackage directly below `edgeres`."""
    return file.split("/")[0].removesuffix(".py")


def imports(file: str, top_level: bool = False) -> Iterator[tuple[str, int]]:
    """Each module that a file imports, by its whole name, and the line; `top_level` leaves out those in functions."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    nodes = _outside_functions(tree) if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            yield node.module or "", node.lineno
            if node.module in ("edgeres", f"edgeres.{part(file)}"):
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not typing_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _outside_functions(child)


def test_every_part_of_the_package_has_its_layer() -> None:
    assert {part(file) for file in FILES} - {"__init__"} == set().union(*LAYERS)


@pytest.mark.parametrize("file", FILES)
def test_imports_go_one_way(file: str) -> None:
    level = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    mine = part(file)
    for module, line in imports(file):
        package, _, below = module.partition(".")
        other = below.split(".")[0]
        if package == "edgeres" and other and other != mine:
            assert level[other] > level[mine], f"{file}:{line} imports {other}, which is not below {mine}"


@pytest.mark.parametrize("file", FILES)
def test_a_heavy_package_is_imported_by_its_own_file_alone(file: str) -> None:
    for module, line in imports(file):
        package = module.split(".")[0]
        assert file in HEAVY.get(package, {file}), f"{file}:{line} imports {package}"


@pytest.mark.parametrize("file", FILES)
def test_a_module_loads_with_the_base_install(file: str) -> None:
    allowed = {*sys.stdlib_module_names, *BASE, "edgeres"}
    if file in EXACT:
        allowed.add("onnxruntime")
    if file == "pytest_plugin.py":
        allowed.add("pytest")
    if file in REMOTE:
        allowed |= {"asyncssh", "distributed"}
    if part(file) == "models":
        allowed.add("torch")
    for module, line in imports(file, top_level=True):
        assert module.split(".")[0] in allowed, f"{file}:{line} imports {module} when it is loaded"


def test_the_command_line_loads_nothing_but_typer_and_errors() -> None:
    files = [file for file in FILES if part(file) == "cli"]
    loaded = {module for file in files for module, _ in imports(file, top_level=True)}
    others = {module for module in loaded if module.split(".")[0] not in sys.stdlib_module_names}
    assert {module for module in others if not module.startswith("edgeres.cli")} == {"typer", "edgeres.errors"}


def test_modules_are_found_by_name_where_runtimes_are_and_nowhere_else() -> None:
    finders = set()
    for file in FILES:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if names & {"import_module", "__import__"}:
            finders.add(file)
    assert finders == {"backends/__init__.py", "backends/tensorrt.py", "backends/tensorrt_compile.py"}


@pytest.mark.parametrize("file", [file for file in FILES if part(file) == "backends" and not file.endswith("__.py")])
def test_a_backend_knows_no_other(file: str) -> None:
    mine = Path(file).stem.partition("_")[0]
    others = {module.split(".")[2] for module, _ in imports(file) if module.startswith("edgeres.backends.")}
    assert {other for other in others if not other.startswith(f"{mine}_")} <= {"base", mine}
