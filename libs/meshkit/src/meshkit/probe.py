"""Asks a service for its gRPC health: `python -m meshkit.probe HOST:PORT [--service NAME]`.

For the health checks of containers and pods. Exit status 0 if it is serving, 1 if not, with the
reason on stderr. It runs every few seconds, so it imports little, and is told by its arguments
what a service would read from its settings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

_CHECK = "/grpc.health.v1.Health/Check"


def why_not_serving(
    address: str,
    service: str,
    timeout_seconds: float,
    credentials: grpc.ChannelCredentials | None,
) -> str | None:
    """What keeps `service` at `address` from serving, in one line; None if it serves.

    An empty `service` stands for the whole process; without `credentials` the call is plaintext.
    """
    channel = (
        grpc.insecure_channel(address)
        if credentials is None
        else grpc.secure_channel(address, credentials)
    )
    with channel:
        check = channel.unary_unary(
            _CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def credentials_from(folder: Path) -> grpc.ChannelCredentials:
    """Mutual TLS with a folder's tls.crt, tls.key and ca.crt. Raises OSError if one is missing."""
    return grpc.ssl_channel_credentials(
        root_certificates=(folder / "ca.crt").read_bytes(),
        private_key=(folder / "tls.key").read_bytes(),
        certificate_chain=(folder / "tls.crt").read_bytes(),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="meshkit.probe", description="Asks for gRPC health.")
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("--service", default="", help="a service's full name; default: the process")
    parser.add_argument("--timeout", type=float, default=4.0, metavar="SECONDS")
    parser.add_argument("--tls", type=Path, metavar="FOLDER", help="of tls.crt, tls.key and ca.crt")
    arguments = parser.parse_args()
    try:
        credentials = credentials_from(arguments.tls) if arguments.tls else None
        reason = why_not_serving(
            arguments.address, arguments.service, arguments.timeout, credentials
        )
    except OSError as error:
        reason = f"cannot read {error.filename}: {error.strerror}"
    if reason is not None:
        sys.stderr.write(f"{arguments.address} {arguments.service}: {reason}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
