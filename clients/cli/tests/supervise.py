"""Supervises small services in a process of its own: python supervise.py DATA_DIR NAME=FATE…"""

import asyncio
import signal
import sys
from pathlib import Path

from agentmesh_cli.supervisor import Mesh, MeshPlan, ServiceSpec
from agentmesh_cli.supervisor.ports import free_ports

SMALL_SERVICE = Path(__file__).with_name("small_service.py")


def small_plan(data_dir: Path, fates: dict[str, str], drain_seconds: float = 2.0) -> MeshPlan:
    ports = iter([free_ports("127.0.0.1").gateway for _ in fates])
    services = tuple(
        ServiceSpec(
            name=name,
            command=(sys.executable, str(SMALL_SERVICE)),
            environment={
                "NAME": name,
                "FATE": fate,
                "JOURNAL": str(data_dir / "journal"),
                "AGENTMESH_GRPC_PORT": str(next(ports)),
                "AGENTMESH_READY_FILE": str(data_dir / "ready" / name),
            },
            ready_file=data_dir / "ready" / name,
            log_file=data_dir / "logs" / f"{name}.log",
        )
        for name, fate in fates.items()
    )
    return MeshPlan(data_dir, services, drain_seconds)


async def main(data_dir: Path, fates: dict[str, str]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Mesh(small_plan(data_dir, fates)) as mesh:
        await mesh.wait_ready(20)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), dict(word.split("=") for word in sys.argv[2:])))
