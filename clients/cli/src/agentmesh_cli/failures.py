"""Failed calls as one clear line with the field and the remedy."""

from agentmesh_client import AgentMeshError

from agentmesh_cli.errors import EXIT_FAILED, EXIT_USAGE, CliError

# What the mesh's own message cannot know: how it is done with this command.
_REMEDIES = {
    "CREDENTIALS_MISSING": "here: --api-key or AGENTMESH_API_KEY",
    "CREDENTIALS_INVALID": "check --api-key or AGENTMESH_API_KEY",
    "ROLE_TOO_LOW": "use a key with a higher role",
    "ACCESS_TOO_LOW": "ask the owner to share it with you to write",
    "SERVICE_UNAVAILABLE": "the mesh goes on when it is back; `agentmesh health` shows more",
}


def describe_failure(error: AgentMeshError, address: str) -> CliError:
    """What to tell the user about a call to the gateway at `address`."""
    exit_status = EXIT_USAGE if error.code == "INVALID_ARGUMENT" else EXIT_FAILED
    if error.violations:
        wrong = "; ".join(f"{v.field}: {v.description}" for v in error.violations)
        return CliError(wrong, exit_status=exit_status)
    if not error.reason and error.code == "UNAVAILABLE":
        return CliError(
            f"no gateway answers at {address}",
            remedy="start a mesh with `agentmesh up`, or name one with --address",
        )
    if not error.reason and error.code == "DEADLINE_EXCEEDED":
        return CliError(f"the gateway at {address} did not answer in time")
    remedy = error.metadata.get("remedy") or _REMEDIES.get(error.reason, "")
    if not remedy and error.retry_after is not None:
        remedy = f"try again in {max(1, round(error.retry_after))} s"
    return CliError(error.message, remedy=remedy, exit_status=exit_status)
