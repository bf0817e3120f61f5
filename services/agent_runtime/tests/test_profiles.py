"""Model profiles: read, checked, published, resolved, priced."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2 as runtime_pb2
from agentmesh.agent_runtime.v1.agent_runtime_service_pb2_grpc import AgentRuntimeServiceStub
from agentmesh.catalog.v1 import agent_pb2, model_profile_pb2
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceStub
from agentmesh_agent_runtime.adapters.definitions import profile_to_proto
from agentmesh_agent_runtime.definitions.check import check_agent
from agentmesh_agent_runtime.definitions.profiles import Profile, open_profiles
from agentmesh_agent_runtime.definitions.specs import AgentSpec, LlmSettings, ProfileSpec
from agentmesh_agent_runtime.definitions.yaml_source import DefinitionError
from agentmesh_agent_runtime.models.catalog import ModelCatalog, ModelDefaults
from agentmesh_agent_runtime.models.prices import Prices
from agentmesh_agent_runtime.models.replies import ModelReply
from agentmesh_agent_runtime.models.scripted.rules import Script
from agentmesh_agent_runtime.settings import RuntimeSettings
from agentmesh_agent_runtime.turns.failures import EndReason, ModelCredentialsRefused
from agentmesh_agent_runtime.turns.ports import Consumption
from meshkit.channels import MeshChannels
from meshkit.identity import Principal, principal_scope
from meshkit.testkit import MeshProcess, test_settings
from pydantic import SecretStr

from services.agent_runtime.tests.memory_world import (
    MemoryRun,
    agent,
    asked,
    driver,
    take_all,
    take_turn,
    team,
)
from services.agent_runtime.tests.real_mesh import RealMesh
from tests.support.model_server import Fault, ModelServer, Reply

KEYS = {"MY_KEY": SecretStr("gsk_hidden1"), "TWO_LINES": SecretStr("gsk_1\ngsk_2")}
SPECIAL = """
fast:
  provider: openai
  model: small-model
  base_url: http://models.test/v1
  key_ref: MY_KEY
  temperature: 0.2
  max_tokens: 99
  timeout: 7.5
  input_price_micros: 150000
  output_price_micros: 600000
  fallbacks: [played]
  requests_per_minute: 600
  cache_replies: true
  vision: true
  structured_output: false
played:
  provider: scripted
"""


def profile(name: str = "fast", *, key: str = "sk-test", **fields: Any) -> Profile:
    spec: dict[str, Any] = {"provider": "openai", "model": "small-model"} | fields
    return Profile(ProfileSpec(id=name, **spec), SecretStr(key))


def catalog(*profiles: Profile) -> ModelCatalog:
    return ModelCatalog(ModelDefaults(), Script((), Path()), profiles)


def test_a_file_of_profiles_is_read_and_survives_the_catalog(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(SPECIAL)
    fast, played = open_profiles(file, KEYS.get)
    assert fast.api_key.get_secret_value() == "gsk_hidden1"
    assert "gsk_hidden1" not in repr(fast)
    assert played.spec.provider == "scripted"
    kept = profile_to_proto(fast.spec)
    assert kept.name == "fast"
    assert kept.provider == model_profile_pb2.MODEL_PROVIDER_OPENAI
    assert kept.key_ref == "MY_KEY"
    assert kept.timeout.ToMilliseconds() == 7500
    assert (kept.temperature, kept.max_tokens) == (0.2, 99)
    assert (kept.HasField("vision"), kept.vision) == (True, True)
    assert (kept.HasField("structured_output"), kept.structured_output) == (True, False)
    assert not kept.HasField("function_calling")
    assert (kept.input_price_micros, kept.output_price_micros) == (150_000, 600_000)
    assert list(kept.fallbacks) == ["played"]
    assert kept.requests_per_minute == 600
    assert kept.cache_replies
    assert not profile_to_proto(played.spec).HasField("max_tokens")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: {provider: openai, modle: x}", r"models.yaml:1: a\.modle: unknown.*'model'"),
        ("a: {provider: opnai, model: x}", r":1: a\.provider: .*'openai'"),
        ("a:\n  model: x", r":1: a\.provider: field required"),
        ("scripted: {provider: ollama, model: x}", r":1: scripted: is the name of the built-in"),
        ("a:\n  provider: openai\n  key_ref: MY_KEY", r":1: a\.model: is missing"),
        ("a:\n  provider: openai\n  model: x", r":1: a\.key_ref: is missing"),
        (
            "a:\n  provider: openai\n  model: x\n  key_ref: NONE",
            r":4: a\.key_ref: there is no key 'NONE'.*AGENTMESH_MODEL_KEYS_DIR",
        ),
        (
            "a:\n  provider: openai\n  model: x\n  key_ref: TWO_LINES",
            r":4: a\.key_ref: 'TWO_LINES' holds more than one line",
        ),
        (
            "a:\n  provider: azure_openai\n  model: x\n  key_ref: MY_KEY",
            r":1: a\.base_url: is missing",
        ),
        (
            "a:\n  provider: ollama\n  model: x\n  fallbacks: [b]",
            r":4: a\.fallbacks\.0: 'b' is no other profile",
        ),
        ("a:\n  provider: ollama\n  model: x\n  fallbacks: [a]", r"fallbacks\.0: 'a' is no other"),
        ("a:\n  provider: ollama\n  model: x\n  base_url: ftp://x", r":4: a\.base_url"),
        ("a b: {provider: ollama, model: x}", r":1: a b\.id: a name consists of"),
        (
            "a: {provider: anthropic, model: x, key_ref: MY_KEY, temperature: 1.5}",
            r"a\.temperature: anthropic takes",
        ),
    ],
)
def test_a_broken_profile_is_told_file_line_path_and_remedy(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    with pytest.raises(DefinitionError, match=says) as caught:
        open_profiles(file, KEYS.get)
    assert "\n" not in str(caught.value)


def test_keys_come_from_files_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_ENV", " gsk_env \n")
    monkeypatch.setenv("EMPTY", "")
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "from-file").write_text("gsk_file\n")
    (tmp_path / "outside").write_text("gsk_outside")
    settings = RuntimeSettings(data_dir=tmp_path, model_keys_dir=tmp_path / "keys")

    def key(reference: str) -> str | None:
        found = settings.model_key(reference)
        return found.get_secret_value() if found else None

    assert key("from-file") == "gsk_file"
    assert key("FROM_ENV") == "gsk_env"
    assert key("EMPTY") is None
    assert key("../outside") is None
    assert key("nothing") is None


def test_an_unknown_profile_is_a_finding_at_its_path() -> None:
    odd = AgentSpec(id="a", llm_config=LlmSettings(profile="fsat"))
    (finding,) = check_agent(odd, "agents[0]", catalog(profile()).problem)
    assert finding.path == "agents[0].llm_config.profile"
    assert "fast" in finding.description
    (finding,) = check_agent(odd, "agents[0]", catalog().problem)
    assert "AGENTMESH_MODELS_FILE" in finding.description
    fine = AgentSpec(id="a", llm_config=LlmSettings(profile="fast"))
    assert list(check_agent(fine, "agents[0]", catalog(profile()).problem)) == []


def test_another_model_of_a_profile_must_be_known_and_have_no_price_of_its_own() -> None:
    def finding(model: str, **fields: Any) -> str | None:
        settings = LlmSettings(profile="fast", model=model)
        found = catalog(profile(**fields)).problem(settings)
        assert found is None or found.path == "model"
        return found.description if found else None

    assert finding("gpt-4o") is None
    assert finding("small-model", input_price_micros=1) is None
    assert "unknown model 'who'" in (finding("who") or "")
    assert finding("who", base_url="http://x/v1") is None
    assert "its price" in (finding("gpt-4o", input_price_micros=1) or "")


def test_a_model_name_that_is_a_profiles_means_the_profile() -> None:
    models = catalog(profile("gpt-4", provider="ollama", model="llama", base_url="http://x"))
    for settings in (LlmSettings(model="gpt-4"), LlmSettings()):
        assert models.problem(settings) is None
        assert models.stands_in_for(settings) is None
        assert models.resolve(settings).provider == "ollama"
        assert models.resolve(settings).model == "llama"
    assert models.default_model == "gpt-4"
    assert models.resolve(LlmSettings(model="gpt-4o")).model == "scripted"
    assert catalog(profile()).default_model == "scripted"


async def test_an_agent_goes_before_its_profile_and_that_before_the_defaults(
    model_server: ModelServer,
) -> None:
    fast = profile(
        base_url=model_server.base_url, temperature=0.2, max_tokens=99, key="gsk_hidden1"
    )
    run = MemoryRun(
        team(
            agent("alice", llm_config={"profile": "fast"}),
            agent("bob", llm_config={"profile": "fast", "temperature": 1.0, "model": "big-model"}),
        ),
        [asked()],
    )
    model_server.reply_with([Reply("one"), Reply("two TERMINATE")])
    assert await take_all(run, driver(run, profiles=[fast])) is EndReason.TERMINATED
    first, second = model_server.requests
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("small-model", 0.2, 99)
    assert (second["model"], second["temperature"]) == ("big-model", 1.0)
    assert model_server.headers[0]["Authorization"] == "Bearer gsk_hidden1"
    assert not any("scripted" in text for _, text in run.texts())


async def test_a_refused_key_names_the_profile_and_never_the_key(
    model_server: ModelServer,
) -> None:
    model_server.fail_next(Fault(status=401, message="bad key gsk_hidden1"))
    fast = profile(base_url=model_server.base_url, key="gsk_hidden1")
    run = MemoryRun(team(agent("alice", llm_config={"profile": "fast"})), [asked()])
    with pytest.raises(ModelCredentialsRefused, match="profile 'fast'") as caught:
        await take_turn(run, driver(run, profiles=[fast]))
    assert "gsk_hidden1" not in caught.value.detail


@pytest.mark.parametrize(
    ("usage", "micros"),
    [
        (Consumption(), 0),
        (Consumption(input_tokens=1_000_000), 150_000),
        (Consumption(input_tokens=10, output_tokens=10), 8),
        (Consumption(input_tokens=1), 1),
    ],
)
def test_costs_are_rounded_up(usage: Consumption, micros: int) -> None:
    assert Prices(150_000, 600_000).cost(usage) == micros


async def test_a_reply_of_a_priced_profile_is_recorded_with_its_cost(
    model_server: ModelServer,
) -> None:
    model_server.reply_with(Reply("one two TERMINATE"))
    fast = profile(
        base_url=model_server.base_url, input_price_micros=10**6, output_price_micros=10**7
    )
    run = MemoryRun(team(agent("alice", llm_config={"profile": "fast"})), [asked("Do it.")])
    await take_all(run, driver(run, profiles=[fast]))
    (step,) = run.recorded
    usage = step.usage
    assert usage.cost_micros == usage.input_tokens + 10 * usage.output_tokens > 0
    assert ModelReply.decode(step.result).usage == usage


def test_a_reply_without_a_price_is_recorded_as_older_runtimes_read_it() -> None:
    assert b"cost_micros" not in ModelReply(text="x").encode()
    assert ModelReply.decode(ModelReply(text="x").encode()) == ModelReply(text="x")


async def test_a_mesh_publishes_profiles_checks_them_and_counts_their_cost(
    tmp_path: Path, model_server: ModelServer
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        f"fast:\n  provider: openai\n  model: small-model\n  base_url: {model_server.base_url}\n"
        "  key_ref: MY_KEY\n  input_price_micros: 1000000\n"
    )
    mesh = RealMesh(tmp_path, AGENTMESH_MODELS_FILE=str(file), MY_KEY="gsk_hidden1")
    await mesh.start()
    channels = MeshChannels("gateway", test_settings(tmp_path / "caller"))
    try:
        with principal_scope(Principal("root", "acme", options_pb2.ROLE_ADMIN, "gateway")):
            await _served(mesh, channels)
            model_server.reply_with(Reply("done TERMINATE"))
            conversation = await mesh.begin(team(agent("alice", llm_config={"profile": "fast"})))
            ended = await mesh.settled(conversation)
            assert ended.run.usage.cost_micros == ended.run.usage.input_tokens > 0
    finally:
        await channels.close()
        await mesh.close()


async def _served(mesh: RealMesh, channels: MeshChannels) -> None:
    runtime = AgentRuntimeServiceStub(
        channels.channel(mesh.runtimes[0].grpc_address, "agent_runtime")
    )
    answer = await runtime.ListModels(runtime_pb2.ListModelsRequest())
    (listed,) = [model for model in answer.models if model.name == "fast"]
    assert (listed.model, listed.key_ref) == ("small-model", "MY_KEY")
    request = runtime_pb2.CheckDefinitionsRequest(
        agents=[
            agent_pb2.AgentDefinition(id="a", llm_config=agent_pb2.LlmConfig(profile="fast")),
            agent_pb2.AgentDefinition(id="b", llm_config=agent_pb2.LlmConfig(profile="slow")),
        ]
    )
    checked = await runtime.CheckDefinitions(request)
    assert [f.path for f in checked.findings] == ["agents[1].llm_config.profile"]
    store = CatalogServiceStub(channels.channel(mesh.store.grpc_address, "conversation_store"))
    documents = await store.ListDocuments(
        catalog_pb2.ListDocumentsRequest(kind=catalog_pb2.DOCUMENT_KIND_MODEL_PROFILE)
    )
    assert [document.name for document in documents.documents] == ["fast"]
    assert "gsk_hidden1" not in f"{answer}{documents}"


async def test_a_runtime_refuses_to_start_with_a_key_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("fast:\n  provider: openai\n  model: m\n  key_ref: NO_SUCH_KEY\n")
    process = MeshProcess(
        [sys.executable, "-m", "agentmesh_agent_runtime"],
        tmp_path / "runtime",
        {"AGENTMESH_MODELS_FILE": str(file)},
    )
    with pytest.raises(Exception, match=r"models\.yaml:4: fast\.key_ref: there is no key"):
        await process.start()
