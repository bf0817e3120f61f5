"""The examples that the product was promised with, as a first user types them: every request, every
endpoint, the environment and the agents' file, against one mesh with them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.support.mesh import SERVICES, Mesh

PATIENCE = 120.0
ENVIRONMENT = {
    "DEFAULT_MODEL": "gpt-4",
    "TEMPERATURE": "0.7",
    "MAX_TOKENS": "4000",
    "AUTOGEN_CODE_EXECUTION": "local",
    "AUTOGEN_TIMEOUT": "300",
    "AUTOGEN_MAX_ROUNDS": "50",
    "AUTOGEN_LOG_LEVEL": "DEBUG",
    "APP_HOST": "127.0.0.1",
    "APP_DEBUG": "false",
    "API_KEY_SECRET": "your_secret_key",
    "ENABLE_HUMAN_IN_LOOP": "true",
    "LOG_LEVEL": "INFO",
    "METRICS_ENABLED": "true",
}
AGENTS = """
project_manager:
  name: "Project Manager"
  role: "Project coordination and task management"
  system_message: |
    You are a project manager responsible for coordinating software development tasks.
    Break down complex requirements into manageable tasks and assign them to appropriate agents.
  llm_config:
    model: "gpt-4"
    temperature: 0.3
  tools: ["task_planner", "progress_tracker"]
  human_input_mode: "NEVER"

developer:
  name: "Developer"
  role: "Software development and implementation"
  system_message: |
    You are a skilled developer who writes clean, efficient, and well-documented code.
    Follow best practices and ensure code quality.
  llm_config:
    model: "gpt-4"
    temperature: 0.1
  tools: ["code_writer", "code_executor", "file_manager"]
  human_input_mode: "TERMINATE"

reviewer:
  name: "Code Reviewer"
  role: "Code review and quality assurance"
  system_message: |
    You are a code reviewer who ensures code quality, security, and best practices.
    Provide constructive feedback and suggest improvements.
  llm_config:
    model: "gpt-3.5-turbo"
    temperature: 0.2
  tools: ["code_analyzer", "security_scanner"]
  human_input_mode: "NEVER"
"""
TEAM = ["project_manager", "developer", "reviewer"]
QUICK_START = """{
    "agents": ["project_manager", "developer", "reviewer"],
    "task": "Create a Python web application with user authentication",
    "workflow": "software_development"
  }"""
REFERENCE = """{
  "agents": ["project_manager", "developer", "reviewer"],
  "task": "Create a REST API for user management with authentication",
  "workflow": "software_development",
  "human_input": false,
  "max_rounds": 20
}"""
WITHOUT_A_WORKFLOW = """{
  "agents": ["project_manager", "developer", "reviewer"],
  "task": "Create a REST API for user management with authentication",
  "max_rounds": 3
}"""
MESSAGE = """{
  "content": "Please add input validation to the API endpoints",
  "agent": "user"
}"""
CODE_REVIEW = """{
  "workflow_id": "code_review",
  "parameters": {
    "repository_url": "https://github.com/user/repo",
    "branch": "main",
    "focus_areas": ["security", "performance", "maintainability"]
  }
}"""
REGISTRATION = """{
  "name": "custom_agent",
  "config": {
    "role": "Custom specialized role",
    "system_message": "You are a specialized agent...",
    "llm_config": {"model": "gpt-4"},
    "tools": ["custom_tool"]
  }
}"""
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def promised_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("promised")
    agents_file = folder / "agents.yaml"
    agents_file.write_text(AGENTS)
    environment = ENVIRONMENT | {"AGENTMESH_AGENTS_FILE": str(agents_file)}
    mesh = Mesh(folder, dict.fromkeys(SERVICES, environment))
    asyncio.run(mesh.start())
    yield mesh
    mesh.stop()


@pytest_asyncio.fixture
async def client(promised_mesh: Mesh) -> AsyncIterator[httpx.AsyncClient]:
    await promised_mesh.heal()
    async with httpx.AsyncClient(base_url=promised_mesh.rest_url, timeout=PATIENCE) as client:
        yield client


async def post(client: httpx.AsyncClient, path: str, body: str) -> dict[str, Any]:
    """A request as `curl -X POST` with that body sends it."""
    return answered(await client.post(path, content=body, headers=JSON))


async def get(client: httpx.AsyncClient, path: str) -> dict[str, Any]:
    return answered(await client.get(path))


def answered(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def assert_time(text: str) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", text), text
    datetime.fromisoformat(text)


async def ended(client: httpx.AsyncClient, conversation_id: str) -> dict[str, Any]:
    """The conversation when its run is over."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await get(client, f"/conversations/{conversation_id}")
            if found["status"] != "running":
                return found
            await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    ("body", "task"),
    [
        (QUICK_START, "Create a Python web application with user authentication"),
        (REFERENCE, "Create a REST API for user management with authentication"),
        (WITHOUT_A_WORKFLOW, "Create a REST API for user management with authentication"),
    ],
    ids=["quick-start", "reference", "without-a-workflow"],
)
async def test_a_conversation_is_started_and_read(
    client: httpx.AsyncClient, body: str, task: str
) -> None:
    started = await post(client, "/conversations/start", body)
    assert started["conversation_id"].startswith("conv_")
    assert (started["status"], started["agents"], started["task"]) == ("running", TEAM, task)
    assert_time(started["started_at"])

    found = await ended(client, started["conversation_id"])
    assert found["conversation_id"] == started["conversation_id"]
    assert found["status"] == "completed"
    assert found["summary"]
    assert_time(found["completed_at"])
    speakers = [message["agent"] for message in found["messages"]]
    assert speakers[0] == "user"
    # Where no model is configured, the mesh itself says that the scripted one answers.
    assert set(speakers) <= {"user", "agentmesh", *TEAM}
    assert {"project_manager", "developer"} <= set(speakers)
    for message in found["messages"]:
        assert isinstance(message["content"], str)
        assert_time(message["timestamp"])
    times = [datetime.fromisoformat(message["timestamp"]) for message in found["messages"]]
    assert times == sorted(times)
    assert times[-1] <= datetime.fromisoformat(found["completed_at"])


async def test_a_message_is_sent_and_the_conversation_looked_into(
    client: httpx.AsyncClient,
) -> None:
    started = await post(client, "/conversations/start", WITHOUT_A_WORKFLOW)
    path = f"/conversations/{started['conversation_id']}"
    sent = await post(client, f"{path}/message", MESSAGE)
    assert sent["message_id"].startswith("msg_")
    found = await ended(client, started["conversation_id"])
    said = [(message["agent"], message["content"]) for message in found["messages"]]
    assert ("user", "Please add input validation to the API endpoints") in said

    looked_into = await get(client, f"{path}/debug")
    assert looked_into["conversation"]["conversation_id"] == started["conversation_id"]
    assert looked_into["runs"]
    assert [agent["agent_id"] for agent in looked_into["pinned_agents"]] == TEAM


async def test_a_workflow_is_executed_and_its_status_read(client: httpx.AsyncClient) -> None:
    execution = await post(client, "/workflows/execute", CODE_REVIEW)
    assert (execution["workflow_id"], execution["status"]) == ("code_review", "running")
    assert_time(execution["started_at"])
    found = await ended(client, execution["conversation_id"])
    assert found["status"] == "completed"
    for word in ("https://github.com/user/repo", "main", "security, performance, maintainability"):
        assert word in found["task"]

    status = await get(client, f"/workflows/{execution['execution_id']}/status")
    assert (status["workflow_id"], status["status"]) == ("code_review", "completed")
    assert status["stage"] == "review/summary"
    assert status["result"] == found["summary"]
    assert_time(status["started_at"])
    assert_time(status["completed_at"])
    (whole,) = status["stages"]
    assert [(stage["id"], stage["status"]) for stage in whole["stages"]] == [
        ("review", "completed"),
        ("summary", "completed"),
    ]


async def test_the_workflow_of_the_quick_start_is_executed_by_name(
    client: httpx.AsyncClient,
) -> None:
    body = """{"workflow_id": "software_development",
        "parameters": {"task": "Create a Python web application with user authentication"}}"""
    execution = await post(client, "/workflows/execute", body)
    status = await get(client, f"/workflows/{execution['execution_id']}/status")
    assert status["workflow_id"] == "software_development"
    names = [stage["id"] for stage in status["stages"][0]["stages"]]
    assert names == ["planning", "development", "testing", "review", "summary"]
    await post(client, f"/conversations/{execution['conversation_id']}/cancel", "{}")


async def test_agents_are_listed_and_registered(client: httpx.AsyncClient) -> None:
    registered = await post(client, "/agents/register", REGISTRATION)
    assert registered["unresolved_tools"] == ["custom_tool"]
    listed = {agent["id"]: agent for agent in (await get(client, "/agents"))["agents"]}
    assert {"custom_agent", *TEAM} <= listed.keys()
    manager = listed["project_manager"]
    assert manager["name"] == "Project Manager"
    assert manager["tools"] == ["task_planner", "progress_tracker"]


async def test_the_health_of_everything_is_told(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/conversations/health", "/agents/health"):
        assert (await get(client, path))["status"] == "healthy", path


async def test_the_figures_of_agents_conversations_tools_and_workflows(
    client: httpx.AsyncClient,
) -> None:
    body = """{"workflow_id": "software_development", "parameters": {"task":
        "Write durations.py with a function parse_duration for ISO 8601 durations, with tests"}}"""
    execution = await post(client, "/workflows/execute", body)
    await ended(client, execution["conversation_id"])
    page = await client.get("/metrics")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    figures = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.text)
        for sample in family.samples
    }
    ok = ("outcome", "ok")
    for wanted in (
        ("agentmesh_up", ("service", "conversation_store")),
        ("agentmesh_up", ("service", "agent_runtime")),
        ("agentmesh_agent_replies_total", ("agent", "developer"), ok),
        ("agentmesh_agent_reply_seconds_count", ("agent", "developer")),
        ("agentmesh_conversations_started_total",),
        ("agentmesh_messages_total", ("sender", "agents")),
        ("agentmesh_runs_ended_total", ("status", "completed")),
        ("agentmesh_run_seconds_count", ("status", "completed")),
        ("agentmesh_tool_calls_total", ok, ("tool", "task_planner")),
        ("agentmesh_tool_call_seconds_count", ("tool", "task_planner")),
        ("agentmesh_team_turns_total", ok, ("team", "software_development")),
        (
            "agentmesh_workflow_stage_seconds_count",
            ("stage", "planning"),
            ("team", "software_development"),
        ),
        (
            "agentmesh_gateway_calls_total",
            ("code", "OK"),
            ("method", "WorkflowService/ExecuteWorkflow"),
        ),
    ):
        assert figures.get(wanted, 0) >= 1, wanted
    assert execution["conversation_id"] not in page.text
    assert "default" not in page.text, "the tenant is no label"


async def test_the_documentation_is_served(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    described = await get(client, "/openapi.json")
    for path in ("/conversations/start", "/workflows/execute", "/agents/register"):
        assert path in described["paths"]
