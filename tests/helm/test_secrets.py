"""Secrets are made once. The cluster is a stand-in that knows discovery and its secrets."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import helm_python
import pytest
import yaml

from .conftest import Manifest, of_kind

SECRETS = "/api/v1/namespaces/agents/secrets/"


class Api(BaseHTTPRequestHandler):
    """Answers what `lookup` asks a Kubernetes API server."""

    secrets: dict[str, dict[str, str]]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/version":
            self.answer(200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"})
        elif path == "/api":
            self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            self.answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": []})
        elif path == "/api/v1":
            secret = {"name": "secrets", "namespaced": True, "kind": "Secret", "verbs": ["get"]}
            self.answer(
                200, {"kind": "APIResourceList", "groupVersion": "v1", "resources": [secret]}
            )
        elif path.startswith(SECRETS) and (name := path.removeprefix(SECRETS)) in self.secrets:
            self.answer(
                200,
                {
                    "kind": "Secret",
                    "apiVersion": "v1",
                    "metadata": {"name": name, "namespace": "agents"},
                    "data": self.secrets[name],
                },
            )
        else:
            status = {"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404}
            self.answer(404, status | {"status": "Failure", "message": f"{path} not found"})

    def answer(self, code: int, body: dict[str, Any]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        pass


@pytest.fixture
def api() -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    secrets: dict[str, dict[str, str]] = {}
    handler = type("Handler", (Api,), {"secrets": secrets})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", secrets
    server.shutdown()
    server.server_close()


def render(helm: ModuleType, address: str, *, upgrade: bool) -> dict[str, Manifest]:
    """The store's secrets as they are rendered against the cluster at `address`."""
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": address}}],
        "users": [{"name": "test", "user": {"token": "none"}}],
    }
    with (
        helm_python.Config(kubeconfig_content=json.dumps(kubeconfig), namespace="agents") as config,
        helm.unlinked("conversation-store") as path,
        helm_python.Chart.load(path) as chart,
    ):
        files = config.render(
            chart, {}, name="demo", namespace="agents", is_install=not upgrade, is_upgrade=upgrade
        )
    documents = yaml.safe_load_all(files["conversation-store/templates/secrets.yaml"])
    return of_kind([document for document in documents if document], "Secret")


Cluster = tuple[str, dict[str, dict[str, str]]]


def test_made_at_the_first_installation(helm: ModuleType, api: Cluster) -> None:
    address, _ = api
    made = render(helm, address, upgrade=False)
    assert made.keys() == {"demo-internal", "demo-api-keys"}
    values = [base64.b64decode(v) for secret in made.values() for v in secret["data"].values()]
    assert len(set(values)) == 2
    assert all(len(value) == 48 for value in values)
    for secret in made.values():
        assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize("upgrade", [True, False])
def test_kept_over_upgrades_and_after_uninstalling(
    helm: ModuleType, api: Cluster, upgrade: bool
) -> None:
    address, secrets = api
    for name, secret in render(helm, address, upgrade=False).items():
        secrets[name] = secret["data"]
    again = render(helm, address, upgrade=upgrade)
    assert {name: secret["data"] for name, secret in again.items()} == secrets


def test_an_upgrade_makes_no_new_ones(helm: ModuleType, api: Cluster) -> None:
    address, _ = api
    with pytest.raises(helm_python.HelmError, match="would invalidate what the old one signed"):
        render(helm, address, upgrade=True)


def test_existing_secrets_are_used(helm: ModuleType) -> None:
    values = {
        "global": {"internalAuth": {"existingSecret": "mine", "key": "k", "acceptedKey": "n"}},
        "apiKeys": {"existingSecret": "pepper"},
    }
    manifests = helm.render("conversation-store", values).manifests
    assert of_kind(manifests, "Secret") == {}
    (store,) = of_kind(manifests, "StatefulSet").values()
    environment = store["spec"]["template"]["spec"]["containers"][0]["env"]
    references = {
        v["name"]: v["valueFrom"]["secretKeyRef"] for v in environment if "valueFrom" in v
    }
    assert references["AGENTMESH_INTERNAL_SECRET"] == {"name": "mine", "key": "k"}
    assert references["AGENTMESH_INTERNAL_SECRET_ACCEPTED"] == {"name": "mine", "key": "n"}
    assert references["API_KEY_SECRET"] == {"name": "pepper", "key": "api-key-secret"}
