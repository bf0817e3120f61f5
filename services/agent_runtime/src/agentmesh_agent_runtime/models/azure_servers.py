"""Azure OpenAI: OpenAI's wire format at an endpoint of one's own, with deployments for models."""

from __future__ import annotations

import httpx2
import openai
from typing_extensions import override

from agentmesh_agent_runtime.definitions.specs import Provider
from agentmesh_agent_runtime.models import openai_servers

API_VERSION = "2024-10-21"
"""Of requests to a base URL that does not say `?api-version=`; the oldest that counts streams."""


class Servers(openai_servers.Servers):
    """See ModelServers. A model's name is that of its deployment."""

    provider = Provider.AZURE_OPENAI

    @override
    def connect(self, base_url: str, api_key: str) -> openai.AsyncOpenAI:
        url = httpx2.URL(base_url)
        return openai.AsyncAzureOpenAI(
            azure_endpoint=str(url.copy_with(query=None)),
            api_version=url.params.get("api-version") or API_VERSION,
            api_key=api_key,
            max_retries=0,
        )
