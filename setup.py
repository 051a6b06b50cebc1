"""Builds the wheel: `lib` becomes the package `tissue` and `jobs` becomes `tissue.jobs`, so that no `lib` is installed.

Only the copies that go into the wheel import `tissue`; the repository stays as it is. `pip install .` runs this.
"""

import re
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
INSTALLED_AS = {"lib": "tissue", "jobs": "tissue.jobs"}
IMPORT = re.compile(r"^(\s*(?:from|import) )(lib|jobs)(?=[. ])", re.MULTILINE)
DATA = {"tissue": ["py.typed"], "tissue.report": ["templates/*"], "tissue.jobs": ["docs/*.md", "recipes/*.yaml"]}


class RenamedModules(build_py):
    """Copies each module under its name in the wheel, with imports that find the others there."""

    def run(self) -> None:
        """Build."""
        if self.editable_mode:
            raise SystemExit("an editable install is not supported; in the repository run `python -m jobs`")
        super().run()

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Copy one module."""
        copied: tuple[str, bool] = super().build_module(module, module_file, package)
        file = Path(copied[0])
        file.write_text(IMPORT.sub(lambda found: found[1] + INSTALLED_AS[found[2]], file.read_text("utf-8")), "utf-8")
        return copied


def packages() -> dict[str, str]:
    """The folder of each package, by its name in the wheel."""
    folders = [file.parent.relative_to(ROOT) for top in INSTALLED_AS for file in (ROOT / top).rglob("__init__.py")]
    return {".".join([INSTALLED_AS[folder.parts[0]], *folder.parts[1:]]): folder.as_posix() for folder in folders}


with tempfile.TemporaryDirectory() as scratch:  # so that nothing is left here, from which a later wheel would be made
    setup(
        packages=sorted(packages()),
        package_dir=packages(),
        package_data=DATA,
        include_package_data=False,
        cmdclass={"build_py": RenamedModules},
        options={"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}},
    )
