"""All conversations, watched from the command line: one line for each event, until Ctrl-C."""

from agentmesh_client import Event

from agentmesh_cli.gateway import Gateway
from agentmesh_cli.rendering.page import Page
from agentmesh_cli.rendering.terminal_text import one_line

_SAID_CHARACTERS = 100


async def show_feed(page: Page, gateway: Gateway) -> None:
    """Shows what happens from now on. Never returns."""
    await gateway.mesh.health()  # fails at once if nobody answers
    async for event in gateway.mesh.subscribe_tenant():
        print_event(page, event)


def print_event(page: Page, event: Event) -> None:
    """Which conversation, which event of it, who, and what was said."""
    said = one_line(event.message.content, _SAID_CHARACTERS) if event.message else ""
    speaker = one_line(event.message.agent if event.message else event.agent, _SAID_CHARACTERS)
    parts: list[str | tuple[str, str]] = [
        (event.conversation_id, "dim"),
        f" {event.sequence:>4} ",
        (event.kind or "unknown", "bold"),
    ]
    if speaker:
        parts += [" ", (speaker, page.colour(speaker))]
    if said:
        parts += [": ", said]
    page.line(*parts)
