"""The charts as Helm's own engine renders them, by the script that users run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


@pytest.fixture(scope="session")
def helm() -> ModuleType:
    """scripts/helm.py, which is no package."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("helm_script", SCRIPTS / "helm.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up.
        sys.modules["helm_script"] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


@pytest.fixture(scope="session")
def cases(helm: ModuleType) -> dict[str, dict[str, Any]]:
    """Values of the committed examples by name."""
    found: dict[str, dict[str, Any]] = helm.example_cases()
    assert {"default", "minimal", "production"} <= found.keys()
    return found


@pytest.fixture(scope="session")
def umbrella(helm: ModuleType, cases: dict[str, dict[str, Any]]) -> dict[str, list[Manifest]]:
    """What the umbrella chart makes of each example, by name."""
    return {name: helm.render(helm.UMBRELLA, values).manifests for name, values in cases.items()}


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Pod specs by `kind/name` of what makes them."""
    found = {}
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            found[name] = manifest["spec"]["template"]["spec"]
        elif manifest["kind"] == "Pod":
            found[name] = manifest["spec"]
    return found


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Manifests of one kind by name."""
    return {m["metadata"]["name"]: m for m in manifests if m["kind"] == kind}
