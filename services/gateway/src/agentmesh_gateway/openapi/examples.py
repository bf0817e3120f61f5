"""Requests and responses to look at, for the methods that people try first."""

from __future__ import annotations

from typing import Any

_TASK = "Create a REST API for user management with authentication"
_TEAM = ["project_manager", "developer", "reviewer"]

REQUESTS: dict[str, Any] = {
    "StartConversation": {
        "agents": _TEAM,
        "task": _TASK,
        "workflow": "software_development",
        "human_input": False,
        "max_rounds": 20,
    },
    "SendMessage": {
        "content": "Please add input validation to the API endpoints",
        "agent": "user",
    },
    "ExecuteWorkflow": {
        "workflow_id": "code_review",
        "parameters": {
            "repository_url": "https://github.com/user/repo",
            "branch": "main",
            "focus_areas": ["security", "performance", "maintainability"],
        },
    },
    "RegisterAgent": {
        "name": "custom_agent",
        "config": {
            "role": "Custom specialized role",
            "system_message": "You are a specialized agent...",
            "llm_config": {"model": "gpt-4"},
            "tools": ["custom_tool"],
        },
    },
    "UpdateConversation": {
        "conversation": {"labels": {"project": "users"}},
        "update_mask": "labels",
    },
    "ResolveApproval": {"decision": "approved", "comment": "Go on."},
    "ExecuteCode": {"language": "python", "code": "print(6 * 7)"},
}
"""The bodies of requests by the name of the method."""

RESPONSES: dict[str, Any] = {
    "StartConversation": {
        "conversation_id": "conv_123",
        "status": "running",
        "agents": _TEAM,
        "task": _TASK,
        "started_at": "2024-01-15T10:30:00Z",
        "workflow": "software_development",
        "run_id": "run_123",
        "max_rounds": 20,
        "owner": "key_123",
    },
}
"""Responses by the name of the method."""
