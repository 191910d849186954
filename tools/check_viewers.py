"""Do other programs open what `gslift` writes, and what do they keep of it?

    python tools/check_viewers.py labels.ply instances.ply objects/0001.ply ...

Each program that is here is asked: Open3D and pymeshlab (pip), splat-transform (npm: @playcanvas/splat-transform),
CloudCompare (Debian: cloudcompare). Prints a table; exit code 1 if one that is here cannot open a file.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

OPEN3D = """
import json, sys, open3d as o3d
cloud = o3d.t.io.read_point_cloud(sys.argv[1])
kept = {name: str(cloud.point[name].dtype) for name in cloud.point}
names = [n for n in kept if n in ("instance_id", "instance_score", "colors", "opacity", "positions")]
print(json.dumps([o3d.__version__, len(cloud.point.positions), ", ".join(f"{n} {kept[n]}" for n in sorted(names))]))
"""
PYMESHLAB = """
import json, sys, importlib.metadata, pymeshlab
meshes = pymeshlab.MeshSet()
meshes.load_new_mesh(sys.argv[1])
mesh = meshes.current_mesh()
colored = "vertex colours" if mesh.has_vertex_color() else "no colours"
print(json.dumps([importlib.metadata.version("pymeshlab"), mesh.vertex_number(), colored]))
"""


def by_python(module: str, code: str) -> Callable[[Path], tuple[str, int, str] | None]:
    def look(path: Path) -> tuple[str, int, str] | None:
        if importlib.util.find_spec(module) is None:
            return None
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        version, count, kept = json.loads(done.stdout.strip().splitlines()[-1])
        return version, count, kept

    return look


def splat_transform(path: Path) -> tuple[str, int, str] | None:
    program = shutil.which("splat-transform")
    if program is None:
        return None
    asked = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = next(word for word in (asked.stdout + asked.stderr).split() if word[:2].strip("v").isdigit())
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.ply"
        done = subprocess.run([program, str(path), str(target)], capture_output=True, text=True, check=False)
        if done.returncode or not target.is_file():
            raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
        header = target.read_bytes().split(b"end_header")[0].decode()
    count = next(int(line.split()[2]) for line in header.splitlines() if line.startswith("element vertex"))
    kept = [
        line.split(None, 1)[1] for line in header.splitlines() if "instance" in line or line.endswith(" red")
    ]
    return version.removeprefix("v"), count, ", ".join(kept) or "a splat alone"


def cloud_compare(path: Path) -> tuple[str, int, str] | None:
    program = shutil.which("CloudCompare") or shutil.which("cloudcompare.CloudCompare")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.asc"
        command = [
            program,
            "-SILENT",
            "-AUTO_SAVE",
            "OFF",
            "-O",
            str(path),
            "-C_EXPORT_FMT",
            "ASC",
            "-ADD_HEADER",
        ]
        command += ["-SAVE_CLOUDS", "FILE", str(target)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={"QT_QPA_PLATFORM": "offscreen", "HOME": folder},
        )
        if not target.is_file():
            raise RuntimeError((done.stdout + done.stderr).strip().splitlines()[-1][:100])
        lines = target.read_text().splitlines()
    return "", len(lines) - 1, lines[0].removeprefix("//")


PROGRAMS = {
    "Open3D": by_python("open3d", OPEN3D),
    "pymeshlab": by_python("pymeshlab", PYMESHLAB),
    "splat-transform": splat_transform,
    "CloudCompare": cloud_compare,
}


def main(paths: list[Path]) -> int:
    failed = 0
    print("| program | file | opened | kept |\n|---|---|---|---|")
    for name, look in PROGRAMS.items():
        for path in paths:
            try:
                found = look(path)
            except RuntimeError as error:
                failed += 1
                print(f"| {name} | {path.name} | no: {error} | |")
                continue
            if found is None:
                print(f"| {name} | {path.name} | not here | |")
                break
            version, count, kept = found
            print(f"| {name} {version} | {path.name} | {count} | {kept} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
