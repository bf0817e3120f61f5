"""Model profiles: read from the operator's file, with the keys that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from autogen_core.models import ChatCompletionClient
from pydantic import SecretStr

from agentmesh_agent_runtime.components import ComponentError, ConfigurationError
from agentmesh_agent_runtime.definitions.specs import ProfileSpec, Provider
from agentmesh_agent_runtime.definitions.yaml_source import load_profiles, refusal

FindKey = Callable[[str], SecretStr | None]
"""The key that a `key_ref` names, or None."""
MakeClient = Callable[[ProfileSpec, SecretStr], ChatCompletionClient]
"""The model client of a package for a profile with its key. Raises ComponentError."""

_OPEN = SecretStr("")
_OWN_SERVERS = frozenset({Provider.OPENAI, Provider.AZURE_OPENAI, Provider.ANTHROPIC})


@dataclass(frozen=True)
class Profile:
    """A profile with its key, which is empty where the server wants none, and the client that a
    package brings for it."""

    spec: ProfileSpec
    api_key: SecretStr = _OPEN
    client: ChatCompletionClient | None = None


def no_client(spec: ProfileSpec, api_key: SecretStr) -> ChatCompletionClient:
    """Where no packages are allowed. Raises ComponentError."""
    raise ComponentError("no packages are allowed; see AGENTMESH_COMPONENT_PACKAGES")


def open_profiles(
    source: Path | None, find_key: FindKey, make_client: MakeClient = no_client
) -> tuple[Profile, ...]:
    """The profiles of a file in its order; none without a file.

    Raises DefinitionError, with file, path and remedy, if one of them cannot be used.
    """
    if source is None:
        return ()
    specs = load_profiles(source)
    names = {spec.id for spec in specs}
    profiles = []
    for spec in specs:
        key = find_key(spec.key_ref) if spec.key_ref else None
        problem = _problem(spec, names, key)
        if problem is not None:
            field, remedy = problem
            raise refusal(source, (spec.id, *field), remedy)
        client = None
        if spec.provider is Provider.COMPONENT:
            client = _client(source, spec, key or _OPEN, make_client)
        profiles.append(Profile(spec, key or _OPEN, client))
    return tuple(profiles)


def _client(
    source: Path, spec: ProfileSpec, key: SecretStr, make_client: MakeClient
) -> ChatCompletionClient:
    try:
        return make_client(spec, key)
    except ConfigurationError as error:
        location, remedy = error.findings[0]
        raise refusal(source, (spec.id, "component_config", *location), remedy) from error
    except ComponentError as error:
        raise refusal(source, (spec.id, "component"), str(error)) from error


def _problem(
    spec: ProfileSpec, names: Iterable[str], key: SecretStr | None
) -> tuple[tuple[str | int, ...], str] | None:
    if spec.id == Provider.SCRIPTED and spec.provider is not Provider.SCRIPTED:
        return (), "is the name of the built-in model; choose another"
    if spec.provider is not Provider.SCRIPTED and not spec.model:
        return ("model",), f"is missing; write the model's name at the {spec.provider} server"
    if spec.provider is Provider.COMPONENT and not spec.component:
        return ("component",), "is missing; write the name of the model client"
    for field in ("component", "component_config"):
        if spec.provider is not Provider.COMPONENT and getattr(spec, field):
            return (field,), f"belongs to the provider {Provider.COMPONENT}; remove it"
    if spec.provider is Provider.AZURE_OPENAI and not spec.base_url:
        return ("base_url",), "is missing; write the endpoint, https://NAME.openai.azure.com"
    if spec.key_ref and key is None:
        return ("key_ref",), (
            f"there is no key {spec.key_ref!r}; set that variable of the runtime's environment, or "
            "put a file of that name into AGENTMESH_MODEL_KEYS_DIR"
        )
    if key is not None and not _is_sendable(key):
        return ("key_ref",), f"{spec.key_ref!r} holds more than one line, or letters no key has"
    if not spec.key_ref and not spec.base_url and spec.provider in _OWN_SERVERS:
        return ("key_ref",), f"is missing; {spec.provider} wants a key, name its variable or file"
    if spec.provider is Provider.ANTHROPIC and (spec.temperature or 0) > 1:
        return ("temperature",), "anthropic takes temperatures between 0 and 1"
    for index, name in enumerate(spec.fallbacks):
        if name == spec.id or name not in names or name in spec.fallbacks[:index]:
            return ("fallbacks", index), (
                f"{name!r} is no other profile of this file that is named once; "
                f"there are {', '.join(sorted(names))}"
            )
    return None


def _is_sendable(key: SecretStr) -> bool:
    """True if it can stand in a header."""
    text = key.get_secret_value()
    return text.isascii() and text.isprintable()
