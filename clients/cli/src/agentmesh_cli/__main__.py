"""python -m agentmesh_cli"""

import os
import sys


def main() -> None:
    """Entry point of the installed command."""
    # gRPC prepares for forks that go on using it, and complains where it cannot. The supervisor's
    # children exec at once. It reads this when it is imported.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    from agentmesh_cli import app

    sys.exit(app.main())


if __name__ == "__main__":
    main()
