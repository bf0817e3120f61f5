"""What installed packages add, by entry points that the operator allows."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from importlib.metadata import EntryPoint, distributions, entry_points
from threading import Thread
from typing import Any, Final

from jsonschema import Draft202012Validator, SchemaError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

log = logging.getLogger(__name__)

Factory = Callable[..., Any]

LONGEST_WORDS: Final = 1000
"""Of an error that a component raises."""


class ComponentKind(StrEnum):
    """What a component is used as."""

    AGENT = "agent"
    TEAM = "team"
    TERMINATION = "termination"
    MODEL_CLIENT = "model_client"
    CANDIDATE_FUNCTION = "candidate_function"

    @property
    def group(self) -> str:
        """The group of entry points that packages name them in."""
        return f"agentmesh.{self.value}s"


class ComponentError(ValueError):
    """There is no such component, or it cannot be used; the text says what to do.

    Components may raise it themselves. Of what else they raise only the type is told, for its text
    may hold what nobody else is to read.
    """


class ConfigurationError(ComponentError):
    """A component's configuration cannot be used: `findings` are places within it, with words."""

    def __init__(self, findings: Iterable[tuple[tuple[str | int, ...], str]]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(text for _, text in self.findings))


@dataclass(frozen=True)
class OfferedComponent:
    """A component of an allowed package; `problem` says why it cannot be used."""

    kind: ComponentKind
    name: str
    distribution: str
    config_schema: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


class Components:
    """Components by their names. `allowed` are names of distributions, "*" stands for all.

    Each is imported once in the life of the process, whether that succeeds or not.
    """

    def __init__(self, allowed: Collection[str] = ()) -> None:
        self._allowed = frozenset(map(_canonical, allowed))
        self._loaded: dict[tuple[ComponentKind, str], Factory | ComponentError] = {}
        self._imports: dict[tuple[ComponentKind, str], Future[None]] = {}

    def load(self, kind: ComponentKind, name: str) -> Factory:
        """The factory or function of that name. The first time it imports the package, which may
        take long. Raises ComponentError."""
        known = self._loaded.get((kind, name))
        if known is None:
            try:
                known = _load(self._find(kind, name))
            except ComponentError as error:
                known = error
            self._loaded[kind, name] = known
        if isinstance(known, ComponentError):
            raise known
        return known

    def configure(self, kind: ComponentKind, name: str, config: Mapping[str, Any]) -> Any:
        """The configuration as the factory takes it: an instance of its pydantic model, or what is
        valid under its JSON Schema.

        Raises ComponentError, or ConfigurationError with the places of what breaks a rule.
        """
        schema = _config_schema(self.load(kind, name), name)
        if schema is None:
            if config:
                what = f"{name!r} takes no configuration; remove it"
                raise ConfigurationError([((key,), what) for key in config])
            return None
        try:
            if isinstance(schema, Mapping):
                return _valid(dict(config), schema)
            return schema.model_validate(dict(config))
        except ConfigurationError:
            raise
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            raise ConfigurationError((each["loc"], _remedy(each)) for each in details) from None
        except Exception as error:
            raise ComponentError(
                f"the configuration of {name!r} cannot be checked: {plain(error)}"
            ) from error

    async def prepare(self, wanted: Iterable[tuple[ComponentKind, str]]) -> None:
        """Imports what can be imported, so that nothing later waits for it. Raises nothing.

        Each import has a thread of its own: one that does not end keeps that thread, and not those
        of all others, however often it is wanted.
        """
        for kind, name in wanted:
            if not self.knows(kind, name):
                await asyncio.wrap_future(self._import(kind, name))

    def _import(self, kind: ComponentKind, name: str) -> Future[None]:
        under_way = self._imports.get((kind, name))
        if under_way is None:
            under_way = self._imports[kind, name] = Future()
            under_way.set_running_or_notify_cancel()  # whoever waits may leave; it goes on
            run = partial(self._run_import, kind, name, under_way)
            Thread(target=run, name=f"import of {name}", daemon=True).start()
        return under_way

    def _run_import(self, kind: ComponentKind, name: str, done: Future[None]) -> None:
        try:
            self.load(kind, name)
        except ComponentError as error:
            log.info("a component is not at hand: %s", error)
        finally:
            done.set_result(None)

    def knows(self, kind: ComponentKind, name: str) -> bool:
        """True if it needs no import any more."""
        return (kind, name) in self._loaded

    def not_installed(self) -> list[str]:
        """Which of the allowed packages are not there."""
        installed = {_canonical(found.name) for found in distributions() if found.name}
        return sorted(self._allowed - installed - {"*"})

    def names(self) -> list[tuple[ComponentKind, str]]:
        """Of all that allowed packages bring."""
        return [(kind, entry.name) for kind in ComponentKind for entry in self._entries[kind]]

    def offered(self) -> list[OfferedComponent]:
        """All that allowed packages bring, by kind and name. Imports what is not prepared."""
        return [
            self._describe(kind, name, package)
            for kind in ComponentKind
            for name, package in sorted({(e.name, _package(e)) for e in self._entries[kind]})
        ]

    def _describe(self, kind: ComponentKind, name: str, package: str) -> OfferedComponent:
        try:
            published = _config_schema(self.load(kind, name), name) or {}
            if not isinstance(published, Mapping):
                published = published.model_json_schema()
        except ComponentError as error:
            return OfferedComponent(kind, name, package, problem=str(error))
        except Exception as error:
            problem = f"its configuration cannot be described: {plain(error)}"
            return OfferedComponent(kind, name, package, problem=problem)
        return OfferedComponent(kind, name, package, published)

    @cached_property
    def _entries(self) -> Mapping[ComponentKind, list[EntryPoint]]:
        return {
            kind: [found for found in entry_points(group=kind.group) if self._is_allowed(found)]
            for kind in ComponentKind
        }

    def _find(self, kind: ComponentKind, name: str) -> EntryPoint:
        offered = self._entries[kind]
        found = {_package(entry): entry for entry in offered if entry.name == name}
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            packages = " and ".join(sorted(found))
            raise ComponentError(f"{packages} both offer {name!r}; allow one of them only")
        names = ", ".join(sorted({entry.name for entry in offered})) or "none"
        raise ComponentError(
            f"no allowed package offers {name!r} as {kind.group}; there are {names}. Install one "
            "and name it in AGENTMESH_COMPONENT_PACKAGES"
        )

    def _is_allowed(self, found: EntryPoint) -> bool:
        if found.dist is None:
            return False
        return "*" in self._allowed or _canonical(found.dist.name) in self._allowed


def plain(error: BaseException) -> str:
    """What may be told of an error in a component: its own words if it meant them to be read."""
    if isinstance(error, ComponentError):
        return str(error).encode("utf-8", "replace").decode()[:LONGEST_WORDS]
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"ModuleNotFoundError: there is no module {error.name}"
    return type(error).__name__


def _load(found: EntryPoint) -> Factory:
    try:
        component = found.load()
    except (Exception, SystemExit) as error:
        log.warning("the component %s of %s fails", found.name, _package(found), exc_info=error)
        raise ComponentError(
            f"{found.name!r} of {_package(found)} cannot be loaded: {plain(error)}; "
            "mend the package and start the runtime again"
        ) from None
    if not callable(component):
        raise ComponentError(f"{found.name!r} of {_package(found)} is nothing that can be called")
    loaded: Factory = component
    return loaded


def _config_schema(factory: Factory, name: str) -> type[BaseModel] | Mapping[str, Any] | None:
    published = getattr(factory, "config_schema", None)
    if published is None or (isinstance(published, type) and issubclass(published, BaseModel)):
        return published
    if isinstance(published, Mapping):
        with suppress(SchemaError):
            Draft202012Validator.check_schema(dict(published))
            return published
    raise ComponentError(
        f"{name!r} publishes a config_schema that is neither a pydantic model nor a JSON Schema"
    )


def _valid(config: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, if it is. Raises ConfigurationError."""
    errors = list(Draft202012Validator(dict(schema)).iter_errors(config))
    if errors:
        raise ConfigurationError((tuple(each.absolute_path), each.message) for each in errors)
    return config


def _remedy(detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return "there is no such field; remove it or mend its name"
    return detail["msg"]


def _package(found: EntryPoint) -> str:
    return f"{found.dist.name} {found.dist.version}" if found.dist else "an unknown package"


def _canonical(name: str) -> str:
    """A distribution's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
