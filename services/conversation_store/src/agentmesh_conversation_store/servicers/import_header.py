"""What the header of an export must hold to: as much as a conversation that is started here."""

from __future__ import annotations

from agentmesh.catalog.v1 import team_pb2
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as pb
from meshkit.errors import FieldViolation, MeshError
from meshkit.validation import validate

from agentmesh_conversation_store.codec.lines import Fields
from agentmesh_conversation_store.codec.values import micros

MOST_AGENTS = 1024
"""Of a team with its teams: each of these has 64 participants at most."""
MOST_NAME_CHARACTERS = 128
_OF_THE_RUN = ("max_rounds", "budget")


def check_header(
    header: Fields, told: conversation_pb2.Conversation, definition: team_pb2.TeamDefinition
) -> None:
    """INVALID_ARGUMENT with every field that the rules of StartConversationRequest refuse."""
    request = pb.StartConversationRequest(
        task=told.task,
        definition=definition,
        workflow=told.workflow,
        agents=told.agents,
        max_rounds=told.run.max_rounds,
        budget=told.run.budget,
        labels=told.labels,
    )
    try:
        validate(request)
    except MeshError as error:
        raise MeshError.invalid_fields(
            [FieldViolation(_place(header, v.field), v.description) for v in error.violations]
        ) from None
    conversation = header.inner("conversation")
    if len(told.agents) > MOST_AGENTS:
        raise conversation.wrong("agents", f"must be at most {MOST_AGENTS}")
    for index, agent in enumerate(told.agents):
        if not 0 < len(agent) <= MOST_NAME_CHARACTERS:
            raise conversation.wrong(
                f"agents[{index}]", f"must have 1 to {MOST_NAME_CHARACTERS} characters"
            )
    if told.run.HasField("timeout") and micros(told.run.timeout) <= 0:
        raise conversation.wrong("run.timeout", "must be longer than nothing")
    if len(told.workflow) > MOST_NAME_CHARACTERS:
        raise conversation.wrong("workflow", f"must have at most {MOST_NAME_CHARACTERS} characters")


def _place(header: Fields, field: str) -> str:
    """Where in the header a field of the request stands."""
    name = field.partition(".")[0].partition("[")[0]
    if name == "definition":
        return f"{header.path}.{field}"
    inner = f"run.{field}" if name in _OF_THE_RUN else field
    return f"{header.path}.conversation.{inner}"
