"""Lints, renders and checks the Helm charts with Helm's own engine, offline.

`lint`, `render` and `check` change nothing; `examples` writes what is generated: the schemas
(values.schema.json, put together from helm/schema), the READMEs' tables, and helm/examples.
`check` does all of it and fails on drift. `package` makes installable archives. No cluster is
asked for anything.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_docs
import helm_python
import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHARTS = ROOT / "helm"
SCHEMAS = CHARTS / "schema"
EXAMPLES = CHARTS / "examples"
SERVICES = ("gateway", "agent-runtime", "tool-runner", "conversation-store")
UMBRELLA = "agentmesh"

# The first in which pods have user namespaces by default, and the newest that the validator knows.
KUBERNETES_VERSIONS = ("1.33", kubernetes_validate.latest_version())
# Kinds of other projects, for which the validator has no schema.
CUSTOM_KINDS = frozenset({"Certificate", "HTTPRoute", "GRPCRoute"})
# What stands in examples where an installation has a random value: `<generated>`.
PLACEHOLDER = "PGdlbmVyYXRlZD4="
GENERATED = re.compile(r"^(  (?:internal-secret|api-key-secret): )[A-Za-z0-9+/]{64}$", re.MULTILINE)

Values = dict[str, Any]
Manifest = dict[str, Any]


class ChartError(Exception):
    """A chart that does not do what it should; the message names chart and remedy."""


@dataclass(frozen=True)
class Rendered:
    """What one chart makes of one set of values: sources by path, none of them empty, and notes."""

    chart: str
    sources: dict[str, str]
    notes: str

    @property
    def text(self) -> str:
        """All sources as one stream of documents, each with the path it came from."""
        parts = []
        for path, source in sorted(self.sources.items()):
            for document in re.split(r"^---\s*$", source, flags=re.MULTILINE):
                if document.strip():
                    parts.append(f"---\n# Source: {path}\n{document.strip()}\n")
        return "".join(parts)

    @property
    def manifests(self) -> list[Manifest]:
        return [document for document in yaml.safe_load_all(self.text) if document]


@contextmanager
def unlinked(chart: str | Path) -> Iterator[Path]:
    """A chart, by name or path, without links: Helm writes a line about each that it follows."""
    path = CHARTS / chart
    if not path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(shutil.copytree(path, Path(scratch) / path.name))


def render(
    chart: str | Path,
    values: Values | None = None,
    *,
    release: str = "demo",
    namespace: str = "agents",
    upgrade: bool = False,
) -> Rendered:
    """Renders a chart, by name or path. Raises ChartError with what Helm says about the values."""
    try:
        # Loaded afresh each time: a loaded chart remembers values of its last rendering.
        with unlinked(chart) as path, helm_python.Chart.load(path) as loaded:
            name = loaded.name
            files = loaded.render(
                values,
                name=release,
                namespace=namespace,
                is_install=not upgrade,
                is_upgrade=upgrade,
            )
    except helm_python.HelmError as error:
        raise ChartError(f"{chart}: {error}") from error
    sources = {n: s for n, s in files.items() if n.endswith(".yaml") and s.strip(" \n-")}
    return Rendered(name, sources, files.get(f"{name}/templates/NOTES.txt", ""))


def lint(chart: str, values: Values | None = None) -> list[str]:
    """What Helm's linter has to say, warnings included; empty if nothing."""
    with unlinked(chart) as path:
        report = helm_python.lint(path, values, strict=True, kube_version="v1.33.0")
    return [m["error"] for m in report["messages"] if m["severity"] >= 2] + [
        error for error in report["errors"] if error not in {m["error"] for m in report["messages"]}
    ]


def invalid(manifests: Sequence[Manifest]) -> Iterator[str]:
    """Checks manifests strictly against the Kubernetes API; yields what does not hold."""
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] in CUSTOM_KINDS:
            continue
        for version in KUBERNETES_VERSIONS:
            try:
                kubernetes_validate.validate(manifest, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                path = ".".join(str(part) for part in error.path)
                yield f"{name} (Kubernetes {version}): {path}: {error.message}"
            except kubernetes_validate.SchemaNotFoundError as error:
                yield f"{name}: {error.message}"


# --- what is generated ------------------------------------------------------------------------


def schema(chart: str) -> str:
    """values.schema.json of a chart. Draft 7, which every Helm understands."""
    common = yaml.safe_load((SCHEMAS / "common.yaml").read_text(encoding="utf-8"))
    definitions = common["definitions"]
    if chart == UMBRELLA:
        shared = definitions["global"] | {"additionalProperties": False}
        properties: Values = {name: {"type": "object"} for name in SERVICES} | {"global": shared}
    else:
        own = yaml.safe_load((SCHEMAS / f"{chart}.yaml").read_text(encoding="utf-8"))
        properties = common["service"] | own
    used: Values = {}
    todo = [json.dumps(properties)]
    while todo:
        for name in re.findall(r'"#/definitions/(\w+)"', todo.pop()):
            if name not in used:
                used[name] = definitions[name]
                todo.append(json.dumps(definitions[name]))
    whole = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"Values of the chart {chart}",
        "type": "object",
        "additionalProperties": False,
        "properties": dict(sorted(properties.items())),
        "definitions": dict(sorted(used.items())),
    }
    return json.dumps(whole, indent=2) + "\n"


def example_cases() -> dict[str, Values]:
    """The example values, by name of the case: helm/examples/<case>.values.yaml."""
    return {
        path.name.removesuffix(".values.yaml"): yaml.safe_load(path.read_text("utf-8")) or {}
        for path in sorted(EXAMPLES.glob("*.values.yaml"))
    }


def example(case: str, values: Values) -> str:
    """An example as it is committed; random values give way to a placeholder."""
    rendered = render(UMBRELLA, values, release="agentmesh", namespace="agentmesh")
    head = f"# {case}.values.yaml as `python scripts/helm.py examples` renders it.\n"
    return head + GENERATED.sub(rf"\g<1>{PLACEHOLDER}", rendered.text)


def generated() -> Iterator[tuple[Path, str]]:
    """Every generated file with what it should contain, dependencies first."""
    for chart in (*SERVICES, UMBRELLA):
        yield CHARTS / chart / "values.schema.json", schema(chart)
    for chart in (*SERVICES, UMBRELLA):
        yield CHARTS / chart / "README.md", helm_docs.readme(CHARTS / chart)
    for case, values in example_cases().items():
        yield EXAMPLES / f"{case}.yaml", example(case, values)


# --- commands ---------------------------------------------------------------------------------


def say(message: str) -> None:
    print(message, flush=True)


def command_lint(_: argparse.Namespace) -> None:
    for chart in (*SERVICES, UMBRELLA):
        findings = lint(chart)
        if findings:
            raise ChartError("\n".join(f"{chart}: {finding}" for finding in findings))
        say(f"lint      {chart}")


def command_render(arguments: argparse.Namespace) -> None:
    values: Values = {}
    for path in arguments.values:
        values |= helm_python.values_from_yaml(path.read_text(encoding="utf-8"))
    for expression in arguments.set:
        values = _merged(values, helm_python.parse_set_string(expression))
    rendered = render(
        arguments.chart, values, release=arguments.release, namespace=arguments.namespace
    )
    print(rendered.text, end="")
    if arguments.notes:
        print(rendered.notes, file=sys.stderr)


def _merged(under: Values, over: Values) -> Values:
    """Maps merged, everything else replaced: as Helm merges values."""
    merged = dict(under)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merged(old, value) if both and isinstance(old, dict) else value
    return merged


def command_examples(_: argparse.Namespace) -> None:
    for path, text in generated():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            say(f"written   {path.relative_to(ROOT)}")


def command_check(arguments: argparse.Namespace) -> None:
    for path, text in generated():
        name = str(path.relative_to(ROOT))
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        if there != text:
            changes = difflib.unified_diff(
                there.splitlines(), text.splitlines(), name, "expected", "", "", 1
            )
            shown = "\n".join(list(changes)[:40])
            raise ChartError(f"{name} has drifted; run `python scripts/helm.py examples`\n{shown}")
        say(f"current   {name}")
    command_lint(arguments)
    cases: list[tuple[str, Values]] = [(chart, {}) for chart in SERVICES]
    cases += [(UMBRELLA, values) for values in example_cases().values()]
    for chart, values in cases:
        manifests = render(chart, values).manifests
        problems = list(invalid(manifests))
        if problems:
            raise ChartError("\n".join(problems))
        unchecked = sum(manifest["kind"] in CUSTOM_KINDS for manifest in manifests)
        versions = " and ".join(KUBERNETES_VERSIONS)
        known = f"{len(manifests) - unchecked} objects on Kubernetes {versions}"
        say(
            f"valid     {chart}: {known}"
            + (f", {unchecked} custom ones unchecked" if unchecked else "")
        )


def command_package(arguments: argparse.Namespace) -> None:
    arguments.destination.mkdir(parents=True, exist_ok=True)
    for chart in (*SERVICES, UMBRELLA):
        with unlinked(chart) as path:
            archive = helm_python.package(path, destination=arguments.destination)
        say(f"packaged  {archive}")


def parser() -> argparse.ArgumentParser:
    main_parser = argparse.ArgumentParser(prog="helm.py", description=__doc__)
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, about in (
        ("lint", command_lint, "lint every chart; warnings are errors"),
        ("check", command_check, "lint, render, validate, and fail on drift"),
        ("examples", command_examples, "write schemas, READMEs and examples"),
    ):
        commands.add_parser(name, help=about).set_defaults(run=run)
    rendering = commands.add_parser("render", help="print what a chart makes of values")
    rendering.add_argument("chart", choices=(*SERVICES, UMBRELLA))
    rendering.add_argument("-f", "--values", type=Path, action="append", default=[])
    rendering.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    rendering.add_argument("--release", default="agentmesh")
    rendering.add_argument("--namespace", default="agentmesh")
    rendering.add_argument("--notes", action="store_true", help="the notes too, on stderr")
    rendering.set_defaults(run=command_render)
    packaging = commands.add_parser("package", help="make archives that `helm install` takes")
    packaging.add_argument("destination", type=Path, nargs="?", default=ROOT / "dist" / "charts")
    packaging.set_defaults(run=command_package)
    return main_parser


def main() -> int:
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except (ChartError, helm_docs.UndocumentedValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
