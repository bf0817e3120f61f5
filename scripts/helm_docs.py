"""The READMEs of the charts: their own text with a table of values made from values.yaml.

A comment that starts with `# --` describes the key below it. Each value is described, or has a
part that is. The table stands between two marks in the README; the rest is written by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

CHARTS = Path(__file__).resolve().parent.parent / "helm"
BEGIN = "<!-- values: made by scripts/helm_docs.py from values.yaml -->"
END = "<!-- end of values -->"


class UndocumentedValueError(Exception):
    """A value without a comment; the message names chart and key."""


def rows(values_file: Path) -> Iterator[tuple[str, str, str]]:
    """Key path, default as JSON and description of every described value, in the file's order."""
    text = values_file.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise UndocumentedValueError(f"{values_file}: not a map")
    yield from _described(root, "", text.splitlines(), values_file)


def _described(
    node: yaml.MappingNode, prefix: str, lines: list[str], file: Path
) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        above = lines[key.start_mark.line - 1].strip() if key.start_mark.line else ""
        description = above.removeprefix("# --").strip() if above.startswith("# --") else ""
        if description:
            yield path, _default(value), description
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _described(value, f"{path}.", lines, file)
        else:
            raise UndocumentedValueError(
                f"{file.relative_to(CHARTS)}: `{path}` has no `# --` comment above it"
            )


def _default(node: yaml.Node) -> str:
    value = yaml.safe_load(yaml.serialize(node))
    return json.dumps(value, ensure_ascii=False)


def table(values_file: Path) -> str:
    """The values as a Markdown table."""
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, description in rows(values_file):
        lines.append(f"| `{path}` | `{default}` | {description.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def readme(chart: Path) -> str:
    """A chart's README with its table brought up to date."""
    text = (chart / "README.md").read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UndocumentedValueError(f"{chart.name}/README.md lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table(chart / 'values.yaml')}\n\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="helm_docs.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail on drift")
    check = parser.parse_args().check
    status = 0
    for values_file in sorted(CHARTS.glob("*/values.yaml")):
        path = values_file.parent / "README.md"
        try:
            text = readme(values_file.parent)
        except (UndocumentedValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        if path.read_text(encoding="utf-8") == text:
            continue
        if check:
            print(
                f"{path.relative_to(CHARTS.parent)} has drifted; run scripts/helm_docs.py",
                file=sys.stderr,
            )
            status = 1
        else:
            path.write_text(text, encoding="utf-8")
            print(f"written   {path.relative_to(CHARTS.parent)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
