"""conf/ and sweeps/ lie in the root of the repository and travel inside the package, as atrous/conf and atrous/sweeps.

Setuptools' `package-dir` could say so too, but then an editable install is no longer a path: it becomes a hook on
imports, through which mypy sees nothing and Hydra no plugins.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    def _settings(self) -> dict[str, str]:
        """{file in the built package: file in the repository}"""
        files = [path for folder in ("conf", "sweeps") for path in sorted(Path(folder).rglob("*.yaml"))]
        return {str(Path(self.build_lib, "atrous", path)): str(path) for path in files}

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder in ("conf", "sweeps"):  # else a file that is gone stays in what an earlier build left
            shutil.rmtree(Path(self.build_lib, "atrous", folder), ignore_errors=True)
        for target, source in self._settings().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *self._settings().values()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *self._settings()]

    def get_output_mapping(self) -> dict[str, str]:
        return super().get_output_mapping() | self._settings()


setup(cmdclass={"build_py": BuildPy})
