"""What is shipped: all of the package, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]

BUILD = """
import sys
from hatchling.builders.wheel import WheelBuilder
print(next(WheelBuilder(sys.argv[1]).build(directory=sys.argv[2], versions=["standard"])))
"""


def test_the_wheel_holds_the_package_with_its_data(tmp_path):
    built = subprocess.run(
        [sys.executable, "-c", BUILD, ROOT, tmp_path], capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(built.stdout.strip()) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (entry_points,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
        declared = wheel.read(entry_points).decode()
    source = ROOT / "src"
    ours = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == ours
    for data in ("py.typed", "report/conformance.html", "stubs/surfaces/mori.json"):
        assert f"pd_testkit/{data}" in names
    assert "[pytest11]\npd_testkit = pd_testkit" in declared
    assert "pd-testkit = pd_testkit.cli:main" in declared
