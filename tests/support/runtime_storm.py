"""A storm over two replicas of the runtime: conversations of every kind of team go on while the
replicas are killed, stopped and woken at random. What must be true afterwards is checked against
the log, the model server and the files that programs wrote."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2, stream_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from aiohttp import web

from tests.support import storm_players as players
from tests.support.conversations import (
    assert_dense,
    events_of,
    messages_of,
    run_end,
    tool_results,
)
from tests.support.mesh import Mesh, runtime_name
from tests.support.model_server import ModelServer, Reply

LEASE_SECONDS = 3.0
AT_ONCE = 12
ONCE = "ran 1 time(s)"
SETTLE_SECONDS = 180.0
WAKING_SECONDS = 2.0
"""How long a replica that was woken may not have heard yet that its leases are gone."""


@dataclass(frozen=True)
class Asked:
    """A request for a reply as it came in."""

    by: str
    at: float
    question: str
    reply: Reply


class StormModel(ModelServer):
    """Plays the teams, and notes which replica asked what and when."""

    PATHS = ("/{runtime}/v1/chat/completions",)
    SUFFIX = ""

    def __init__(self) -> None:
        super().__init__(delay=0.1, chunk_delay=0.02)
        self.asked: dict[str, list[Asked]] = defaultdict(list)
        self.reply_with(lambda body, number: players.play(body))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        content = json.dumps([body["messages"], body.get("tools")], sort_keys=True)
        self.asked[players.mark_of(body)].append(
            Asked(
                request.match_info["runtime"],
                time.time(),
                hashlib.sha256(content.encode()).hexdigest(),
                players.play(body),
            )
        )
        return await super()._complete(request)


@dataclass
class Tally:
    """What happened."""

    kills: int = 0
    stops: int = 0
    long_stops: int = 0
    conversations: int = 0
    attempts_lost: int = 0
    calls: int = 0
    repeated: int = 0
    too_late: int = 0

    def __str__(self) -> str:
        return (
            f"{self.conversations} conversations, {self.calls} replies; {self.kills} kills, "
            f"{self.stops} stops, {self.long_stops} of them longer than a lease; "
            f"{self.attempts_lost} attempts lost, {self.repeated} replies asked for again, "
            f"{self.too_late} of them when the answer was recorded, by a replica just woken"
        )


@dataclass
class Course:
    """One conversation as a subscriber at the gateway saw it."""

    team: str
    mark: str
    items: list[stream_pb2.StreamItem] = field(default_factory=list)

    @property
    def events(self) -> list[event_pb2.Event]:
        """Its log."""
        return events_of(self.items)


class RuntimeStorm:
    """A mesh with two runtimes and a model server, and those who converse in it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.tally = Tally()
        self.model = StormModel()
        self.calm: dict[str, Course] = {}
        self.woken: dict[str, list[float]] = defaultdict(list)
        self._folder = folder
        self._mesh: Mesh
        self._stack = AsyncExitStack()
        self._over = False
        self._begun = 0

    async def __aenter__(self) -> RuntimeStorm:
        await self._stack.enter_async_context(self.model)
        common = {"OPENAI_API_KEY": "sk-storm", "AGENTMESH_AGENTS_FILE": str(players.TEAMS_FILE)}
        names = [runtime_name(number) for number in range(2)]
        environment = {
            name: common | {"OPENAI_BASE_URL": f"{self.model.base_url}/{name}/v1"} for name in names
        }
        environment["conversation_store"] = {
            "AGENTMESH_LEASE_SECONDS": str(LEASE_SECONDS),
            "AGENTMESH_LEASE_RENEW_SECONDS": "0.5",
            "AGENTMESH_MAX_LOST_WORKERS": "1000",
        }
        self._mesh = Mesh(self._folder, environment, runtimes=len(names))
        self._stack.callback(self._mesh.stop)
        await self._mesh.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._mesh.heal()
        await self._stack.aclose()

    # --- the course of it ------------------------------------------------------------------------

    async def blow(self, count: int) -> list[Course]:
        """One conversation of each team in peace, then `count` while the storm blows."""
        if not self.calm:
            peace = await asyncio.gather(*(self._converse(team) for team in players.TEAMS))
            self.calm = {course.team: course for course in peace}
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> Course:
            async with room:
                return await self._converse(players.TEAMS[number % len(players.TEAMS)])

        self._over = False
        strikes = [asyncio.create_task(self._strike(name)) for name in self._mesh.runtimes]
        try:
            courses = await asyncio.gather(*(one(number) for number in range(count)))
        finally:
            self._over = True
            await asyncio.gather(*strikes)
        self.tally.conversations += len(courses)
        return courses

    async def _converse(self, team: str) -> Course:
        task = players.task_of(self._begun)
        self._begun += 1
        course = Course(team, players.mark_in(task))
        started = await self._mesh.start_conversation(task, workflow=team)
        stub = ConversationServiceStub(self._mesh.channel())
        token = ""
        async with asyncio.timeout(SETTLE_SECONDS):
            while True:
                request = conversations.SubscribeConversationRequest(
                    conversation_id=started.conversation_id,
                    resume_token=token,
                    until=stream_pb2.SUBSCRIBE_UNTIL_RUN_END,
                )
                try:
                    async for response in stub.SubscribeConversation(request):
                        token = response.item.resume_token or token
                        course.items.append(response.item)
                except grpc.aio.AioRpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.1)
                else:
                    return course

    async def _strike(self, name: str) -> None:
        """Kills, stops and wakes one replica, again and again."""
        process = self._mesh.processes[name]
        while not self._over:
            await asyncio.sleep(self.chance.uniform(0.3, 2.0))
            match self.chance.choice(["kill", "stop", "long stop"]):
                case "kill":
                    await process.sigkill()
                    self.tally.kills += 1
                    await asyncio.sleep(self.chance.uniform(0.0, 0.5))
                    await process.start()
                case "stop":
                    await self._stop(name, self.chance.uniform(0.05, LEASE_SECONDS / 2))
                case _:
                    await self._stop(name, LEASE_SECONDS + self.chance.uniform(0.5, 2.0))
                    self.tally.long_stops += 1

    async def _stop(self, name: str, seconds: float) -> None:
        process = self._mesh.processes[name]
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.woken[name].append(time.time())
        process.send_signal(signal.SIGCONT)
        self.tally.stops += 1

    # --- what is known afterwards ----------------------------------------------------------------

    def just_woken(self, asked: Asked) -> bool:
        """True if a replica asked that cannot have known what happened while it stood still."""
        return any(0 <= asked.at - woken <= WAKING_SECONDS for woken in self.woken[asked.by])


def check(storm: RuntimeStorm, courses: Iterable[Course]) -> None:
    """Raises AssertionError, with what happened, if a promise was broken."""
    for course in courses:
        events = course.events
        assert_dense(events)
        end = run_end(events)
        assert end.status == conversation_pb2.RUN_STATUS_COMPLETED, (course.team, end, storm.tally)
        ended = Counter(event.run_id for event in events if event.HasField("run_ended"))
        began = {event.run_id for event in events if event.HasField("run_started")}
        assert ended == dict.fromkeys(began, 1), course.mark
        _check_words(storm, course)
        _check_effects(course)
        _check_deltas(course)
        _check_questions(storm, course)
        storm.tally.attempts_lost += sum(event.HasField("attempt_failed") for event in events)


def told(events: Iterable[event_pb2.Event]) -> list[tuple[int, str, int, str, str]]:
    """Who said what in which turn; members that speak at the same time are not in order."""
    events = list(events)
    counted = {message.message_id for message in messages_of(events)}
    return sorted(
        (
            event.turn,
            event.message.agent,
            event.message.role,
            players.unmarked(event.message.content),
            ",".join(_call_ids(event.message)),
        )
        for event in events
        if event.HasField("message") and event.message.message_id in counted
    )


def _call_ids(message: message_pb2.Message) -> list[str]:
    return [part.tool_call.tool_call_id for part in message.parts if part.HasField("tool_call")]


def _check_words(storm: RuntimeStorm, course: Course) -> None:
    """The transcript is that of an undisturbed run."""
    calm = storm.calm[course.team]
    assert told(course.events) == told(calm.events), (course.team, course.mark, str(storm.tally))
    assert run_end(course.events).reason == run_end(calm.events).reason


def _check_effects(course: Course) -> None:
    """Every program ran once."""
    for result in tool_results(course.events):
        assert result.outcome == message_pb2.TOOL_OUTCOME_OK, (course.mark, result)
        assert result.tool != "code_executor" or ONCE in result.output, (course.mark, result)


def _check_deltas(course: Course) -> None:
    """What a lost attempt streamed is never shown after what a later one did, or after the end."""
    fences: dict[str, int] = {}
    final: set[str] = set()
    for item in course.items:
        final |= {e.message.message_id for e in item.events.events if e.HasField("message")}
        delta = item.delta
        if not item.HasField("delta"):
            continue
        assert delta.message_id not in final, (course.mark, delta)
        assert delta.fence >= fences.get(delta.message_id, 0), (course.mark, delta)
        fences[delta.message_id] = delta.fence


def _check_questions(storm: RuntimeStorm, course: Course) -> None:
    """Nothing is asked for again whose answer is recorded, and nothing else was asked for."""
    recorded = _recorded_at(course.events)
    counted: Counter[str] = Counter()
    calm = {asked.question for asked in storm.model.asked[storm.calm[course.team].mark]}
    for asked in storm.model.asked[course.mark]:
        counted[asked.question] += 1
        storm.tally.calls += 1
        if counted[asked.question] == 1:
            continue
        storm.tally.repeated += 1
        known = recorded.get(_known_by(asked.reply))
        if known is None or asked.at <= known:
            continue
        assert storm.just_woken(asked), (course.team, course.mark, asked, known, str(storm.tally))
        storm.tally.too_late += 1
    assert len(counted) == len(calm), (course.team, course.mark, len(counted), len(calm))


def _recorded_at(events: Iterable[event_pb2.Event]) -> dict[str, float]:
    """When each reply was recorded, by its calls or its words, aloud or not. What a selector
    chooses is not among them: it says nothing."""
    times: dict[str, float] = {}
    for event in events:
        if event.HasField("message"):
            known_by = ",".join(_call_ids(event.message)) or _words(event.message)
            times[known_by] = event.time.ToNanoseconds() / 1e9
    return times


def _words(message: message_pb2.Message) -> str:
    return message.content or "".join(part.reasoning.text for part in message.parts)


def _known_by(reply: Reply) -> str:
    return ",".join(call.call_id for call in reply.tool_calls) or reply.text
