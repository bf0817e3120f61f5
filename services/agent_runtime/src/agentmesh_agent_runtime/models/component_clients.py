"""Model clients of installed packages as models of profiles."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, Final

from autogen_core import CancellationToken
from autogen_core.models import ChatCompletionClient, CreateResult, validate_model_info
from pydantic import SecretStr

from agentmesh_agent_runtime.components import (
    ComponentError,
    ComponentKind,
    Components,
    plain,
)
from agentmesh_agent_runtime.definitions.specs import ProfileSpec, Provider
from agentmesh_agent_runtime.extension.setups import ModelClientSetup
from agentmesh_agent_runtime.models.assembly import ReplyAssembly, counted
from agentmesh_agent_runtime.models.endpoints import Endpoint
from agentmesh_agent_runtime.models.output_formats import in_words
from agentmesh_agent_runtime.models.prompt_length import characters
from agentmesh_agent_runtime.models.replies import Call, ModelReply, ModelRequest, Piece
from agentmesh_agent_runtime.models.whole_text import valid
from agentmesh_agent_runtime.turns.failures import ModelFailed, ModelRefused, TurnFailure

log = logging.getLogger(__name__)

_FINISH: Final = {
    "length": "length",
    "function_calls": "tool_calls",
    "content_filter": "content_filter",
}


def make_client(
    components: Components, spec: ProfileSpec, api_key: SecretStr
) -> ChatCompletionClient:
    """The client that the profile's component makes of it.

    Raises ComponentError, or ConfigurationError with the places of what breaks a rule.
    """
    kind = ComponentKind.MODEL_CLIENT
    config = components.configure(kind, spec.component, spec.component_config)
    factory = components.load(kind, spec.component)
    setup = ModelClientSetup(
        profile=spec.id,
        model=spec.model,
        base_url=spec.base_url,
        api_key=api_key,
        timeout=spec.timeout,
        config=config,
    )
    try:
        client = factory(setup)
    except (Exception, SystemExit) as error:
        log.warning("the model client %s fails", spec.component, exc_info=error)
        raise ComponentError(f"{spec.component!r} cannot be made: {plain(error)}") from error
    if not isinstance(client, ChatCompletionClient):
        made = type(client).__name__
        raise ComponentError(f"{spec.component!r} makes a {made}, which is no ChatCompletionClient")
    try:
        validate_model_info(client.model_info)
    except Exception as error:
        raise ComponentError(
            f"{spec.component!r} does not say what its model can do; its model_info needs vision, "
            "function_calling, json_output, family and structured_output"
        ) from error
    return client


class ComponentReplySource:
    """See ReplySource. What is asked of the client is bound in time and length like any server."""

    provider: str = Provider.COMPONENT

    def __init__(self, spec: ProfileSpec, client: ChatCompletionClient, endpoint: Endpoint) -> None:
        self.model = endpoint.model
        self.info = endpoint.info(client.model_info)
        self._name = spec.component
        self._client = client
        self._endpoint = endpoint

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource."""
        token = CancellationToken()
        reply = ReplyAssembly(self.model, self._endpoint.max_reply_chars)
        result: CreateResult | None = None
        try:
            async with aclosing(self._pieces(request, token)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, CreateResult):
                        result = piece
                        break
                    for said in reply.say(piece):
                        yield said
        except (TurnFailure, asyncio.CancelledError, GeneratorExit):
            raise
        except (Exception, SystemExit) as error:
            log.warning("the model client %s failed", self._name, exc_info=error)
            raise self._endpoint.failures.client(self._name, error) from error
        finally:
            token.cancel()
        if result is None:
            raise ModelFailed(f"the model client {self._name!r} broke off in its reply")
        if len(result.content) > self._endpoint.max_reply_chars:
            raise ModelRefused(f"the model client {self._name!r} gives endless replies")
        for rest in _rest(reply, result):
            yield rest
        yield _whole(reply, result, request)

    async def _pieces(
        self, request: ModelRequest, token: CancellationToken
    ) -> AsyncGenerator[str | CreateResult, None]:
        endpoint = self._endpoint
        extra = {
            name: value
            for name, value in (
                ("temperature", endpoint.temperature),
                ("max_tokens", endpoint.max_tokens),
            )
            if value is not None
        }
        stream = self._client.create_stream(
            in_words(request).messages,
            tools=request.tools,
            tool_choice=request.tool_choice,
            json_output=request.json_output,
            extra_create_args={**extra, **endpoint.extra},
            cancellation_token=token,
        )
        try:
            while True:
                try:
                    async with asyncio.timeout(endpoint.reply_timeout):
                        piece = await anext(stream)
                except StopAsyncIteration:
                    return
                except TimeoutError as error:
                    raise endpoint.failures.timeout() from error
                yield piece
                # A client that waits for nothing would keep everybody else from their turn.
                await asyncio.sleep(0)
        finally:
            await _close(stream)


async def _close(stream: AsyncIterator[Any]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        with suppress(Exception):
            await close()


def _rest(reply: ReplyAssembly, result: CreateResult) -> list[Piece]:
    """What the result has beyond what was streamed."""
    content = result.content
    if isinstance(content, str):
        thought = reply.think(result.thought)
        return thought + (reply.say(content) if not reply.has_text else [])
    pieces = [] if reply.has_text else reply.say(result.thought)
    for index, call in enumerate(content):
        pieces += reply.call(index, call_id=call.id, name=call.name, arguments=call.arguments)
    return pieces


def _whole(reply: ReplyAssembly, result: CreateResult, request: ModelRequest) -> ModelReply:
    reply.finish_reason = _FINISH.get(result.finish_reason, "stop")
    usage = counted(result.usage.prompt_tokens, result.usage.completion_tokens)
    whole = reply.finish(usage, prompt_chars=characters(request.messages))
    if isinstance(result.content, str):
        return replace(whole, text=valid(result.content))
    calls = (Call(valid(c.id), valid(c.name), valid(c.arguments or "{}")) for c in result.content)
    return replace(whole, calls=tuple(calls))
