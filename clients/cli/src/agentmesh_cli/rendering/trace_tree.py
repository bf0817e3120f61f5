"""The spans of a run as a tree."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agentmesh.common.v1 import trace_service_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from agentmesh_cli.rendering.terminal_text import one_line

_SERVICE_STYLES = {
    "gateway": "cyan",
    "conversation_store": "green",
    "agent_runtime": "magenta",
    "tool_runner": "yellow",
}


@dataclass
class TraceNode:
    """A span, or `count` equal ones side by side, with what happened inside it."""

    span: trace_service_pb2.Span
    children: list["TraceNode"] = field(default_factory=list)
    count: int = 1
    milliseconds: float = 0.0
    failed: bool = False


def build_tree(spans: Iterable[trace_service_pb2.Span]) -> list[TraceNode]:
    """The spans under their parents, in order of time. One whose parent is not known is
    a root."""
    unique = {span.span_id: span for span in spans}
    nodes = {
        span_id: TraceNode(span, milliseconds=_milliseconds(span), failed=span.failed)
        for span_id, span in unique.items()
    }
    roots: list[TraceNode] = []
    for node in sorted(nodes.values(), key=lambda node: _nanoseconds(node.span.start_time)):
        parent = nodes.get(node.span.parent_span_id)
        if parent is None or parent is node:
            roots.append(node)
        else:
            parent.children.append(node)
    return roots


def collapse(nodes: Sequence[TraceNode]) -> list[TraceNode]:
    """The tree with equal leaves of one parent joined: count and sum in place of each of them."""
    joined: list[TraceNode] = []
    leaves: dict[tuple[str, str, bool], TraceNode] = {}
    for node in nodes:
        node = TraceNode(node.span, collapse(node.children), 1, node.milliseconds, node.failed)
        key = (node.span.service, node.span.name, node.failed)
        same = leaves.get(key)
        if node.children or same is None:
            joined.append(node)
            if not node.children:
                leaves[key] = node
        else:
            same.count += 1
            same.milliseconds += node.milliseconds
    return joined


def print_trace(
    console: Console,
    trace_id: str,
    spans: Sequence[trace_service_pb2.Span],
    unreachable: Sequence[str] = (),
    *,
    every_span: bool = False,
) -> None:
    """A heading, the tree with each span's start, duration and service, and who did not answer."""
    if not spans:
        console.print(Text("no spans are remembered for this run", "dim"))
    else:
        nodes = build_tree(spans)
        zero = min(_nanoseconds(span.start_time) for span in spans)
        counts: dict[str, int] = defaultdict(int)
        for span in spans:
            counts[span.service] += 1
        services = ", ".join(f"{one_line(name, 32)} {counts[name]}" for name in sorted(counts))
        tree = Tree(
            Text.assemble(("trace ", "bold"), trace_id, (f"  {services}", "dim")), guide_style="dim"
        )
        for node in nodes if every_span else collapse(nodes):
            _grow(tree, node, zero)
        console.print(tree, soft_wrap=True)
    for name in unreachable:
        console.print(Text(f"{one_line(name, 64)} did not answer; its spans are missing", "yellow"))


def _grow(tree: Tree, node: TraceNode, zero: int) -> None:
    span = node.span
    service = one_line(span.service, 32)
    name = one_line(span.name, 100)
    if "/" in name:  # the package of a method says nothing that the service does not
        name = name.rpartition(".")[2]
    label = Text.assemble(
        (f"{service} ", _SERVICE_STYLES.get(service, "")),
        name,
        (f" x{node.count}" if node.count > 1 else "", "bold"),
        (f"  {_duration(node.milliseconds)}", "bold"),
        (f"  at {_duration((_nanoseconds(span.start_time) - zero) / 1e6)}", "dim"),
    )
    if node.failed:
        label.append(f"  failed: {one_line(span.status_message, 120)}", "red")
    branch = tree.add(label)
    for child in node.children:
        _grow(branch, child, zero)


def _nanoseconds(time: Timestamp) -> int:
    return time.seconds * 1_000_000_000 + time.nanos


def _milliseconds(span: trace_service_pb2.Span) -> float:
    return (_nanoseconds(span.end_time) - _nanoseconds(span.start_time)) / 1e6


def _duration(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds / 1000:.2f} s"
