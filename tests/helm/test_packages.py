"""What the documentation says of an image with packages in it is what the charts make of it."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from .conftest import of_kind

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"


@pytest.mark.parametrize(
    ("service", "dockerfile", "variable"),
    [
        ("agent-runtime", "Dockerfile", "AGENTMESH_COMPONENT_PACKAGES"),
        ("tool-runner", "Dockerfile.tools", "AGENTMESH_TOOL_PACKAGES"),
    ],
)
def test_an_image_with_packages_is_deployed_and_allows_them(
    helm: ModuleType, service: str, dockerfile: str, variable: str
) -> None:
    about = DEPLOYMENT.read_text("utf-8").split(f"examples/extension/{dockerfile})")[-1]
    block = re.search(r"```yaml\n(.*?)```", about, re.DOTALL)
    assert block
    values = yaml.safe_load(block[1])
    manifests = helm.render(helm.UMBRELLA, values).manifests
    workloads = of_kind(manifests, "Deployment") | of_kind(manifests, "StatefulSet")
    (name,) = [name for name in workloads if name.endswith(service)]
    (container,) = workloads[name]["spec"]["template"]["spec"]["containers"]
    image = values[service]["image"]
    assert container["image"] == f"{image['repository']}:{image['tag']}"
    allowed = values[service]["env"][variable]
    assert {"name": variable, "value": allowed} in container["env"]
