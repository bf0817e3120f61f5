"""Fixtures of the command line's tests."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from agentmesh_cli.supervisor import MeshPlan


@pytest.fixture(scope="session")
def small_plan() -> Callable[..., MeshPlan]:
    """Plans a mesh of small real processes: `small_plan(data_dir, {name: fate})`.

    The function lives in a script, because a test also runs it in a process of its own.
    """
    spec = importlib.util.spec_from_file_location(
        "supervise", Path(__file__).with_name("supervise.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    planner: Callable[..., MeshPlan] = module.small_plan
    return planner
