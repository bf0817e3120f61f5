"""Which processes make a mesh, and with which settings each of them is started."""

import secrets
import sys
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path

from agentmesh_cli.errors import CliError
from agentmesh_cli.supervisor.ports import MeshPorts, free_ports, require_free
from agentmesh_cli.supervisor.service import ServiceSpec

LOOPBACK = "127.0.0.1"

# Callees first. They are started together and stopped in the opposite order, so that nothing
# drains against a service that is gone.
SERVICE_NAMES = ("conversation_store", "tool_runner", "agent_runtime", "gateway")


@dataclass(frozen=True)
class MeshPlan:
    """The services of a mesh in start order, and the folder that holds all of its data."""

    data_dir: Path
    services: tuple[ServiceSpec, ...]
    drain_seconds: float


def plan_mesh(
    data_dir: Path,
    environment: Mapping[str, str],
    *,
    ports: MeshPorts | None,
    gateway_host: str = LOOPBACK,
    drain_seconds: float = 10.0,
) -> MeshPlan:
    """The embedded mesh: four services on loopback over one data directory.

    `ports` None: any free ones. `environment` is passed on to the services, with their addresses
    and a secret of this mesh added; the secret is on no disk and on no command line. Raises
    CliError if a port is taken or a service is not installed.
    """
    _require_installed()
    if ports is None:
        ports = free_ports(LOOPBACK)
    else:
        require_free(LOOPBACK, astuple(ports))
    shared = {
        **environment,
        "AGENTMESH_DATA_DIR": str(data_dir),
        "AGENTMESH_INTERNAL_SECRET": environment.get("AGENTMESH_INTERNAL_SECRET")
        or secrets.token_urlsafe(32),
        "AGENTMESH_STORE_ADDRESS": f"{LOOPBACK}:{ports.conversation_store}",
        "AGENTMESH_RUNTIME_ADDRESS": f"{LOOPBACK}:{ports.agent_runtime}",
        "AGENTMESH_TOOL_RUNNER_ADDRESS": f"{LOOPBACK}:{ports.tool_runner}",
        "AGENTMESH_DRAIN_SECONDS": f"{drain_seconds:g}",
        "APP_HOST": gateway_host,
        "APP_PORT": str(ports.rest),
        "PYTHONUNBUFFERED": "1",
    }
    services = tuple(
        _service(name, data_dir, shared, getattr(ports, name), gateway_host)
        for name in SERVICE_NAMES
    )
    return MeshPlan(data_dir, services, drain_seconds)


def _require_installed() -> None:
    missing = [name for name in SERVICE_NAMES if find_spec(f"agentmesh_{name}") is None]
    if missing:
        raise CliError(
            f"not installed beside this command: {', '.join(missing)}",
            remedy="install agentmesh-cli[mesh]",
        )


def _service(
    name: str, data_dir: Path, shared: Mapping[str, str], port: int, gateway_host: str
) -> ServiceSpec:
    ready_file = data_dir / "ready" / f"{name}.json"
    return ServiceSpec(
        name=name,
        command=(sys.executable, "-m", f"agentmesh_{name}"),
        environment={
            **shared,
            "AGENTMESH_GRPC_HOST": gateway_host if name == "gateway" else LOOPBACK,
            "AGENTMESH_GRPC_PORT": str(port),
            "AGENTMESH_READY_FILE": str(ready_file),
        },
        ready_file=ready_file,
        log_file=data_dir / "logs" / f"{name}.log",
    )
