"""The wheel of this repository, and an environment that borrows everything else from the running one."""

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
NO_NETWORK = ("--no-deps", "--no-index", "--quiet")


def build_wheel(folder: Path) -> Path:
    """Build it as `pip install .` does, with the setuptools of this environment."""
    pip("wheel", ROOT, "--no-build-isolation", "--wheel-dir", folder, *NO_NETWORK)
    [file] = folder.glob("*.whl")
    return file


def pip(*arguments: object) -> None:
    """Run pip."""
    subprocess.run([sys.executable, "-m", "pip", *map(str, arguments)], check=True)


def borrow_packages(environment: Path) -> None:
    """Have an environment find the packages of this one, after its own."""
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
