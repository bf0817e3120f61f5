"""For tests: hosts in process, services as real processes, TLS, and assertions on errors.

Needs the extra `agentmesh-meshkit[testkit]`; nothing in production imports it. A conftest.py that
wants the fixture writes `from meshkit.testkit import mesh_hosts  # noqa: F401`.
"""

from meshkit.testkit.assertions import ExpectedError, raises_rich, rich_error
from meshkit.testkit.hosts import HostFactory, free_port, mesh_hosts, test_settings
from meshkit.testkit.processes import MeshProcess, ProcessFailedError
from meshkit.testkit.resets import resetting_server
from meshkit.testkit.tls import TlsFiles, make_client_certificate, make_tls

__all__ = [
    "ExpectedError",
    "HostFactory",
    "MeshProcess",
    "ProcessFailedError",
    "TlsFiles",
    "free_port",
    "make_client_certificate",
    "make_tls",
    "mesh_hosts",
    "raises_rich",
    "resetting_server",
    "rich_error",
    "test_settings",
]
