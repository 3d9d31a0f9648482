"""Marks for tests that need a package which not every machine has."""

import importlib.util
from pathlib import Path

import pytest


def _lacks(package: str, inside: str = "") -> bool:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return not any(Path(folder, inside).is_dir() for folder in folders or ())


def _needs(package: str, inside: str = "") -> pytest.MarkDecorator:
    lacking = [name for name, what in ((package, inside), ("pysc2", "")) if _lacks(name, what)]
    reason = f"needs {' and '.join(lacking)}: pip install --no-deps -r requirements-sc2.txt"
    return pytest.mark.skipif(bool(lacking), reason=reason)


needs_smac = _needs("smac", "env/starcraft2")
needs_smacv2 = _needs("smacv2", "env/starcraft2")
needs_smaclite = pytest.mark.skipif(_lacks("smaclite"), reason="needs smaclite, which is not installed")
