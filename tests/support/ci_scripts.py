"""Scripts of CI, which are in no package, as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

CI = Path(__file__).parents[2] / ".ci"


def load(name: str) -> ModuleType:
    """Import a script anew, by its name without ``.py``."""
    spec = importlib.util.spec_from_file_location(name, CI / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # which its dataclasses look for
    spec.loader.exec_module(module)
    return module
