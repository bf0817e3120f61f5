"""Starts the services of a mesh as processes of this machine and keeps them running."""

from agentmesh_cli.supervisor.mesh import Mesh
from agentmesh_cli.supervisor.mesh_file import MeshFile, read_mesh_file
from agentmesh_cli.supervisor.plan import MeshPlan, plan_mesh
from agentmesh_cli.supervisor.service import ServiceSpec, ServiceState, ServiceStatus

__all__ = [
    "Mesh",
    "MeshFile",
    "MeshPlan",
    "ServiceSpec",
    "ServiceState",
    "ServiceStatus",
    "plan_mesh",
    "read_mesh_file",
]
