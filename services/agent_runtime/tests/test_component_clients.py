"""Model clients of packages: profiles of the provider `component`, and what becomes of failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agentmesh.catalog.v1 import model_profile_pb2
from agentmesh_agent_runtime.adapters.definitions import profile_to_proto
from agentmesh_agent_runtime.components import Components
from agentmesh_agent_runtime.definitions.profiles import Profile, open_profiles
from agentmesh_agent_runtime.definitions.specs import LlmSettings, TeamSpec
from agentmesh_agent_runtime.definitions.yaml_source import DefinitionError
from agentmesh_agent_runtime.models.catalog import ModelCatalog, ModelDefaults
from agentmesh_agent_runtime.models.component_clients import make_client
from agentmesh_agent_runtime.models.scripted.rules import Script
from agentmesh_agent_runtime.turns.driver import TurnDriver
from agentmesh_agent_runtime.turns.failures import (
    ModelCredentialsRefused,
    ModelFailed,
    ModelRefused,
    TurnFailure,
    TurnStalled,
)
from agentmesh_agent_runtime.turns.ports import DeltaKind, PartKind
from pydantic import SecretStr

from services.agent_runtime.tests.component_package import install
from services.agent_runtime.tests.memory_world import MemoryRun, agent, asked, take_turn, team
from services.agent_runtime.tests.test_team_kinds import echo
from tests.support.example_package import install_example

SOURCE = """
import asyncio
from autogen_core import FunctionCall
from autogen_core.models import CreateResult, RequestUsage
from agentmesh_agent_runtime.extension import ModelCredentialsRefused, ModelRefused, takes
from agentmesh_example.models import Parrot, ParrotConfig

USAGE = RequestUsage(7, 5)

def result(content, usage=USAGE, reason="stop", thought=None):
    return CreateResult(finish_reason=reason, content=content, usage=usage, cached=False,
                        thought=thought)

class Client(Parrot):
    asked = []
    closed = 0

    def __init__(self, setup):
        self._config = ParrotConfig()
        self.setup = setup

    @property
    def model_info(self):
        return {**super().model_info, "function_calling": True}

    async def close(self):
        type(self).closed += 1

    async def create_stream(self, messages, *, tools=(), tool_choice="auto", json_output=None,
                            extra_create_args=None, cancellation_token=None):
        Client.asked.append((len(tools), dict(extra_create_args), cancellation_token))
        async for piece in self.answer(messages):
            yield piece

class Calls(Client):
    async def answer(self, messages):
        if messages[-1].type == "FunctionExecutionResultMessage":
            yield result("done")
        else:
            yield "I shall call."
            calls = [FunctionCall(id="x", name="echo", arguments='{"n": 1}')]
            yield result(calls, reason="function_calls", thought="I shall call.")

class Thinks(Client):
    async def answer(self, messages):
        yield result("an answer", thought="a thought")

class Uncounted(Client):
    async def answer(self, messages):
        yield result("one two three four", usage=RequestUsage(0, 0))

class Raises(Client):
    async def answer(self, messages):
        yield "half"
        raise RuntimeError(f"the key is {self.setup.api_key.get_secret_value()}")

class Exits(Client):
    async def answer(self, messages):
        raise SystemExit(self.setup.api_key.get_secret_value())
        yield

class Refuses(Client):
    async def answer(self, messages):
        raise ModelRefused("this model speaks of the weather only")
        yield

class Credentials(Client):
    async def answer(self, messages):
        raise ModelCredentialsRefused("the key is no longer valid")
        yield

class BreaksOff(Client):
    async def answer(self, messages):
        yield "half"

class Stalls(Client):
    async def answer(self, messages):
        yield "half"
        await asyncio.Event().wait()

class Endless(Client):
    async def answer(self, messages):
        while True:
            yield "word " * 100

class Schemes(Client):
    async def answer(self, messages):
        assert '"required": ["a"]' in messages[0].content
        yield result('{"a": 1}')

class Nothing(Client):
    async def answer(self, messages):
        yield result("")

class NoStream(Client):
    def create_stream(self, messages, **_):
        return None

class Mute(Client):
    model_info = {"vision": True}

class Hasty(Client):
    async def answer(self, messages):
        while True:
            yield ""

def no_client(setup): return "client"

def cannot(setup): raise RuntimeError(setup.api_key.get_secret_value())
"""
NAMES = [
    "Calls",
    "Thinks",
    "Uncounted",
    "Raises",
    "Refuses",
    "Exits",
    "Credentials",
    "BreaksOff",
    "Stalls",
    "Endless",
    "Nothing",
    "Mute",
    "Hasty",
    "Schemes",
    "NoStream",
    "no_client",
    "cannot",
]
ALL = ["*"]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_example(tmp_path_factory.mktemp("example"))


@pytest.fixture(autouse=True)
def packages(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example package, and clients that do what clients do."""
    monkeypatch.syspath_prepend(str(example))
    points = {"agentmesh.model_clients": {name: name for name in NAMES}}
    install(tmp_path, monkeypatch, SOURCE, points, name="clients")


def opened(tmp_path: Path, document: str, allowed: list[str] = ALL) -> tuple[Profile, ...]:
    """The profiles of a file."""
    file = tmp_path / "models.yaml"
    file.write_text(document)
    components = Components(allowed)
    keys = {"MY_KEY": SecretStr("gsk_hidden1")}
    return open_profiles(file, keys.get, lambda spec, key: make_client(components, spec, key))


def document(component: str, *more: str) -> str:
    lines = [
        "ours:",
        "  provider: component",
        f"  component: {component}",
        "  model: m-1",
        "  key_ref: MY_KEY",
    ]
    return "\n".join([*lines, *(f"  {line}" for line in more)]) + "\n"


def catalog(*profiles: Profile) -> ModelCatalog:
    defaults = ModelDefaults(reply_timeout=0.3, max_reply_chars=1000)
    return ModelCatalog(defaults, Script((), Path()), profiles)


def turns(run: MemoryRun, *profiles: Profile) -> TurnDriver:
    return TurnDriver(catalog(*profiles), run.schemas, worker_id="worker-1", stall_seconds=30)


def one(**fields: Any) -> TeamSpec:
    return team(agent("a", llm_config=LlmSettings(profile="ours"), **fields), kind="single")


async def test_a_client_of_a_package_streams_into_recorded_steps(tmp_path: Path) -> None:
    lines = ("component_config: {greeting: Hello}", "input_price_micros: 1000000")
    profiles = opened(tmp_path, document("parrot", *lines))
    run = MemoryRun(one(), [asked("is there anybody")])
    await take_turn(run, turns(run, *profiles))
    assert run.texts() == [("a", "Hello is there anybody")]
    assert list(run.streamed().values()) == ["Hello is there anybody"]
    (step,) = run.recorded
    assert (step.usage.input_tokens, step.usage.output_tokens) == (3, 4)
    assert (step.usage.model_calls, step.usage.cost_micros) == (1, 3)
    assert not step.usage.estimated
    assert step.model == "m-1"


async def test_a_client_is_asked_with_the_settings_of_the_agent(tmp_path: Path) -> None:
    profiles = opened(tmp_path, document("Thinks", "temperature: 0.5", "max_tokens: 99"))
    settings = LlmSettings(profile="ours", max_tokens=50, extra={"top_k": 3})
    run = MemoryRun(team(agent("a", llm_config=settings), kind="single"), [asked()])
    await take_turn(run, turns(run, *profiles))
    client: Any = profiles[0].client
    tools, extra, token = type(client).asked[-1]
    assert (tools, extra) == (0, {"temperature": 0.5, "max_tokens": 50, "top_k": 3})
    assert token.is_cancelled(), "a client that goes on is not told that nobody listens"
    assert [(p.kind, p.text) for p in run.said[0].parts] == [
        (PartKind.REASONING, "a thought"),
        (PartKind.TEXT, "an answer"),
    ]
    assert [kind for _, _, kind, _ in run.deltas] == [DeltaKind.REASONING, DeltaKind.TEXT]


async def test_tool_calls_of_a_client_are_carried_out(tmp_path: Path) -> None:
    profiles = opened(tmp_path, document("Calls"))
    run = MemoryRun(one(tools=("echo",)), [asked()], tools={"echo": echo})
    await take_turn(run, turns(run, *profiles))
    assert [call.arguments_json for call in run.tool_calls] == ['{"n": 1}']
    assert run.texts()[0] == ("a", "I shall call.")
    assert run.texts()[-1] == ("a", "done")


async def test_a_client_that_does_not_count_is_estimated(tmp_path: Path) -> None:
    profiles = opened(tmp_path, document("Uncounted"))
    run = MemoryRun(one(), [asked()])
    await take_turn(run, turns(run, *profiles))
    assert run.recorded[0].usage.estimated
    assert run.recorded[0].usage.output_tokens > 0


@pytest.mark.parametrize(
    ("component", "failure", "says"),
    [
        ("Raises", ModelFailed, "'Raises' failed: RuntimeError"),
        ("Exits", ModelFailed, "'Exits' failed: SystemExit"),
        ("Refuses", ModelRefused, "weather"),
        ("Credentials", ModelCredentialsRefused, "no longer valid"),
        ("BreaksOff", ModelFailed, "broke off"),
        ("Stalls", ModelFailed, "in time"),
        ("Endless", ModelRefused, "longer than 1000"),
        ("Nothing", ModelFailed, "empty"),
        ("NoStream", ModelFailed, "TypeError"),
    ],
)
async def test_failures_of_a_client_are_the_models(
    tmp_path: Path, component: str, failure: type[TurnFailure], says: str
) -> None:
    profiles = opened(tmp_path, document(component))
    run = MemoryRun(one(), [asked()])
    with pytest.raises(failure, match=says) as failed:
        await take_turn(run, turns(run, *profiles))
    assert "gsk_hidden1" not in str(failed.value)


async def test_a_client_that_waits_for_nothing_and_says_nothing_is_given_up(
    tmp_path: Path,
) -> None:
    profiles = opened(tmp_path, document("Hasty"))
    run = MemoryRun(one(), [asked()])
    turns = TurnDriver(catalog(*profiles), run.schemas, worker_id="worker-1", stall_seconds=2)
    with pytest.raises(TurnStalled):
        await take_turn(run, turns)


async def test_another_profile_stands_in_for_a_client(tmp_path: Path) -> None:
    more = "other:\n  provider: component\n  component: parrot\n  model: m-2\n"
    profiles = opened(tmp_path, document("Refuses", "fallbacks: [other]") + more)
    run = MemoryRun(one(), [asked("again")])
    await take_turn(run, turns(run, *profiles))
    assert run.texts() == [("a", "I heard: again")]
    assert run.recorded[0].model == "m-2"


async def test_a_client_is_asked_in_words_for_an_answer_under_a_schema(tmp_path: Path) -> None:
    profiles = opened(tmp_path, document("Schemes"))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    run = MemoryRun(one(output_schema=schema), [asked()])
    await take_turn(run, turns(run, *profiles))
    assert run.texts() == [("a", '{"a": 1}')]
    assert [p.kind for p in run.said[0].parts] == [PartKind.TEXT, PartKind.DATA]


async def test_clients_are_closed_with_the_catalog(tmp_path: Path) -> None:
    profiles = opened(tmp_path, document("Thinks"))
    client: Any = profiles[0].client
    before = type(client).closed
    models = catalog(*profiles)
    await models.prepare()
    await models.close()
    assert type(client).closed == before + 1


def test_a_profile_of_a_package_is_published_and_stands_for_its_model(tmp_path: Path) -> None:
    profiles = opened(tmp_path, document("parrot", "component_config: {greeting: Hello}"))
    kept = profile_to_proto(profiles[0].spec)
    assert kept.provider == model_profile_pb2.MODEL_PROVIDER_COMPONENT
    assert (kept.component, kept.component_config["greeting"]) == ("parrot", "Hello")
    finding = catalog(*profiles).problem(LlmSettings(profile="ours", model="another"))
    assert finding is not None
    assert finding.path == "model"


@pytest.mark.parametrize(
    ("source", "allowed", "says"),
    [
        (document("parrot"), [], "models.yaml:3: ours.component: no allowed package"),
        (document("nowhere"), ALL, "models.yaml:3: ours.component: no allowed package"),
        (document("no_client"), ALL, "models.yaml:3: ours.component: 'no_client' makes a str"),
        (
            document("Mute"),
            ALL,
            "models.yaml:3: ours.component: 'Mute' does not say what its model",
        ),
        (document("cannot"), ALL, "models.yaml:3: ours.component: 'cannot' cannot be made: Runt"),
        (
            document("parrot", "component_config: {word_seconds: 7}"),
            ALL,
            "models.yaml:6: ours.component_config.word_seconds",
        ),
        (
            document("parrot", "component_config: {word: 7}"),
            ALL,
            "models.yaml:6: ours.component_config.word",
        ),
        (document("''"), ALL, "models.yaml:3: ours.component: is missing"),
        (
            "ours:\n  provider: scripted\n  component: parrot\n",
            ALL,
            "models.yaml:3: ours.component: belongs to the provider component",
        ),
    ],
)
def test_a_profile_whose_client_cannot_work_keeps_the_runtime_from_starting(
    tmp_path: Path, source: str, allowed: list[str], says: str
) -> None:
    with pytest.raises(DefinitionError) as refused:
        opened(tmp_path, source, allowed)
    assert says in str(refused.value)
    assert "gsk_hidden1" not in str(refused.value)
