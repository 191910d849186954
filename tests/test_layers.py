"""The layers of docs/guide.md, held by reading every import."""

import ast
from pathlib import Path

import pytest
from commands import python

PACKAGE = Path(__file__).parent.parent / "gs_lift"

LAYERS = [
    {
        "ahead",
        "errors",
        "geometry",
        "files",
        "progress",
        "palette",
        "seeds",
        "sparse",
        "threads",
        "words",
        "workers",
        "_native",
    },
    {"distributed", "segmentation", "gaussians"},
    {"lanes", "scene", "ply"},
    {
        "datasets",
        "points",
        "rendering",
        "clustering",
        "metrics",
        "disagreement",
        "checkpoint",
        "camera_paths",
        "video",
    },
    {"fitting", "lifting", "protocols", "segmenters", "synthetic", "splats"},
    {"blocks", "evaluation", "edits"},
    {"held_out"},
    {"config", "figures", "report", "terminal"},
    {"run", "doctor", "recipe"},
    {"block_runs"},
    {"pipeline"},
    {"batch"},
    {"benchmark", "editing", "exports", "pictures", "portraits", "relabel", "segment_doctor"},
    {"report_page", "scene_page", "scoring", "viewer"},
    {"cli"},
]
LAYER_OF = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """The parts of gs_lift that a file imports anywhere, also inside functions."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "gs_lift":
            parts |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gs_lift."):
            parts.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            parts |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gs_lift.")}
    return parts & set(LAYER_OF)


FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "__main__.py" and path != PACKAGE / "__init__.py"
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_part_imports_only_from_lower_layers(path: Path) -> None:
    part = part_of(path)
    assert part in LAYER_OF, f"{part} has no layer: add it to LAYERS and docs/guide.md"
    upward = {other for other in imported_parts(path) if other != part and LAYER_OF[other] >= LAYER_OF[part]}
    assert not upward


def test_only_ply_imports_plyfile() -> None:
    importers = {
        part_of(path)
        for path in FILES
        if "import plyfile" in path.read_text() or "from plyfile" in path.read_text()
    }
    assert importers == {"ply"}


HEAVY = ["torch", "gsplat", "faiss", "hdbscan", "plyfile", "pycolmap", "scipy", "matplotlib", "viser"]


@pytest.mark.parametrize("statement", ["import gs_lift", "import gs_lift.cli"])
def test_the_import_is_light(statement: str, tmp_path: Path) -> None:
    code = f"{statement}; import sys; print([name for name in {HEAVY} if name in sys.modules])"
    assert python(code, tmp_path).stdout.strip() == "[]"


def test_help_runs_without_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom gs_lift.cli import main\nmain(['--help'])"
    result = python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    for command in ["demo", "synth", "fit", "segment", "eval", "render", "config"]:
        assert command in result.stdout
