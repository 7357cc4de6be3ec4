"""Put compiled operators into the wheel, if ``LVGAN_BUILD_LIBS=1``; otherwise do nothing.

    LVGAN_BUILD_LIBS=1 pip wheel . --no-deps --no-build-isolation

needs torch and a C++ compiler in the environment that builds, and adds the library of CUDA where nvcc is.
The wheel, ``py3-none-<platform>``, then needs no compiler. It runs on any processor with AVX2 (x86-64-v3).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Libraries(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the libraries and adds them to the wheel."""

    def _folder(self) -> Path:
        return Path(self.directory) / "lvgan-libs"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if os.environ.get("LVGAN_BUILD_LIBS") != "1" or version == "editable":
            return
        sys.path.insert(0, self.root)
        from lvgan.ops import building

        folder = self._folder()
        for kind in building.KINDS:
            recipe = building.recipe(kind, portable=True)
            if kind == "cuda" and (recipe.compiler is None or not recipe.source.exists()):
                self.app.display_info(f"no CUDA library: {recipe.missing or 'no source'}")
                continue
            try:
                building.compile_to(recipe, folder / f"{kind}.so")
            except building.BuildError as error:
                self.app.abort(f"LVGAN_BUILD_LIBS=1, but {error}")
            (folder / f"{kind}.json").write_text(json.dumps(building.bundle_facts(recipe)))
            for suffix in (".so", ".json"):
                build_data["force_include"][str(folder / (kind + suffix))] = f"lvgan/ops/_lib/{kind}{suffix}"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self._folder(), ignore_errors=True)
