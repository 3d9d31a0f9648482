"""The names of parts, as the files of their registries have them.

They are read, not imported, so that a misspelt one is told before torch is loaded, which takes seconds. Hence
a name stands literally in its file: ``REGISTRY = {"name": Part}`` or ``REGISTRY["name"] = Part``.
"""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.constraints import unknown

SOURCE = Path(__file__).resolve().parents[1]
FILES = {  # by the key of the configuration that names a part
    "runner": "runners/__init__.py",
    "mac": "controllers/__init__.py",
    "learner": "learners/__init__.py",
    "agent": "modules/agents/__init__.py",
    "action_selector": "components/action_selectors.py",
    "critic_type": "modules/critics/__init__.py",
    "mixer": "modules/mixers/__init__.py",
}


def check_names(config: Mapping[str, Any]) -> None:
    """Raise ConfigError if a part that the configuration names is in no registry."""
    for key in FILES:
        name = config.get(key)
        if name is not None and name not in (known := sorted(names(key))):
            raise unknown(key, name, known)


def names(key: str) -> set[str]:
    """Return the names in the registry of the parts that ``key`` names."""
    found: list[ast.expr | None] = []
    for node in ast.parse((SOURCE / FILES[key]).read_text()).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name("REGISTRY")], value=ast.Dict(keys))
                | ast.AnnAssign(target=ast.Name("REGISTRY"), value=ast.Dict(keys))
            ):
                found += keys
            case ast.Assign(targets=[ast.Subscript(ast.Name("REGISTRY"), name)]):
                found.append(name)
    return {name.value for name in found if isinstance(name, ast.Constant) and isinstance(name.value, str)}
