"""What the documentation says of an image with packages in it is what the charts make of it."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import yaml

from .conftest import of_kind

DEPLOYMENT = Path(__file__).parents[2] / "docs" / "deployment.md"


def test_an_image_with_packages_is_deployed_and_allows_them(helm: ModuleType) -> None:
    about = DEPLOYMENT.read_text("utf-8").split("examples/extension/Dockerfile")[-1]
    block = re.search(r"```yaml\n(.*?)```", about, re.DOTALL)
    assert block
    values = yaml.safe_load(block[1])
    manifests = helm.render(helm.UMBRELLA, values).manifests
    (name,) = [n for n in of_kind(manifests, "Deployment") if n.endswith("agent-runtime")]
    (container,) = of_kind(manifests, "Deployment")[name]["spec"]["template"]["spec"]["containers"]
    image = values["agent-runtime"]["image"]
    assert container["image"] == f"{image['repository']}:{image['tag']}"
    allowed = values["agent-runtime"]["env"]["AGENTMESH_COMPONENT_PACKAGES"]
    assert {"name": "AGENTMESH_COMPONENT_PACKAGES", "value": allowed} in container["env"]
