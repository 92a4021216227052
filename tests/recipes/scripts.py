"""The scripts of the recipes, as tests load and run them."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parents[2] / "recipes"


def load(script: str) -> Any:
    """Import a script by its path below recipes/; names of its module are found at run time only, hence Any."""
    spec = importlib.util.spec_from_file_location(f"recipes: {script}", RECIPES / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def stub_nmt(folder: Path) -> Path:
    """A folder with an `nmt` that only writes down how it was called, and where."""
    binaries = folder / "bin"
    binaries.mkdir()
    nmt = binaries / "nmt"
    nmt.write_text(
        '#!/usr/bin/env bash\necho "$PWD $*" >> "$CALLS"\nif [[ $1 == translate ]]; then cat; fi\n', encoding="utf-8"
    )
    nmt.chmod(0o755)
    return binaries
