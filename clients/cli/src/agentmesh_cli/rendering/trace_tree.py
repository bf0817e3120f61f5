"""The spans of a run as a tree."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agentmesh.common.v1 import trace_service_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.text import Text

from agentmesh_cli.rendering.terminal_text import one_line

_SERVICE_STYLES = {
    "gateway": "cyan",
    "conversation_store": "green",
    "agent_runtime": "magenta",
    "tool_runner": "yellow",
}


@dataclass
class TraceNode:
    """A span with what happened inside it. `count` equal ones may stand in one node; `callee` is
    the service that carried it out, where the span is a call and the callee's own span is known."""

    span: trace_service_pb2.Span
    children: list["TraceNode"] = field(default_factory=list)
    callee: str = ""
    count: int = 1
    milliseconds: float = 0.0
    failed: bool = False

    @property
    def is_call(self) -> bool:
        """True for a gRPC method."""
        return "/" in self.span.name


def build_tree(spans: Iterable[trace_service_pb2.Span]) -> list[TraceNode]:
    """The spans under their parents, in order of time. One whose parent is not known is a root."""
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


def condense(nodes: Sequence[TraceNode]) -> list[TraceNode]:
    """The tree in fewer nodes: both ends of a call are one, and so are equal calls and equal leaves
    side by side, with count and sum in place of each of them."""
    joined: list[TraceNode] = []
    known: dict[tuple[str, str, str, bool], TraceNode] = {}
    for node in map(_join_ends, nodes):
        key = (node.span.service, node.callee, node.span.name, node.failed)
        same = known.get(key)
        if same is not None and (node.is_call or not (node.children or same.children)):
            same.count += node.count
            same.milliseconds += node.milliseconds
            same.children += node.children
        else:
            known[key] = node
            joined.append(node)
    for node in joined:
        node.children = condense(node.children)
    return joined


def _join_ends(node: TraceNode) -> TraceNode:
    """A call as one node; a copy of every other."""
    callee, children = "", node.children
    if node.is_call and len(children) == 1 and children[0].span.name == node.span.name:
        callee, children = children[0].span.service, children[0].children
    return TraceNode(node.span, list(children), callee, node.count, node.milliseconds, node.failed)


def print_trace(
    console: Console,
    trace_id: str,
    spans: Sequence[trace_service_pb2.Span],
    unreachable: Sequence[str] = (),
    *,
    every_span: bool = False,
) -> None:
    """When each span began and how long it took, beside the tree; then who did not answer."""
    if spans:
        counts = Counter(span.service for span in spans)
        services = ", ".join(f"{one_line(name, 32)} {counts[name]}" for name in sorted(counts))
        _print(console, Text.assemble(("trace ", "bold"), trace_id, (f"  {services}", "dim")))
        _print(console, Text(f"{'start':>10}{'took':>11}", "dim"))
        roots = build_tree(spans)
        zero = min(_nanoseconds(span.start_time) for span in spans)
        _print_nodes(console, roots if every_span else condense(roots), "", zero)
    else:
        _print(console, Text("no spans are remembered for this run", "dim"))
    for name in unreachable:
        _print(
            console, Text(f"{one_line(name, 64)} did not answer; its spans are missing", "yellow")
        )


def _print_nodes(console: Console, nodes: Sequence[TraceNode], indent: str, zero: int) -> None:
    for index, node in enumerate(nodes):
        last = index == len(nodes) - 1
        branch, below = ("", "") if not indent else ("└ ", "  ") if last else ("├ ", "│ ")
        began = (_nanoseconds(node.span.start_time) - zero) / 1e6
        line = Text.assemble(
            (f"{_duration(began):>10}", "dim"),
            (f"{_duration(node.milliseconds):>11}", "bold"),
            (indent + branch if indent else "  ", "dim"),
        )
        _print(console, line.append_text(_label(node)))
        _print_nodes(console, node.children, (indent or "  ") + below, zero)


def _label(node: TraceNode) -> Text:
    service = one_line(node.span.service, 32)
    name = one_line(node.span.name, 100)
    if node.is_call:  # the package of a method says nothing that the service does not
        name = name.rpartition(".")[2]
    label = Text.assemble((service, _SERVICE_STYLES.get(service, "")))
    if node.callee:
        callee = one_line(node.callee, 32)
        label.append(" > ", "dim").append(callee, _SERVICE_STYLES.get(callee, ""))
    label.append(f" {name}")
    if node.count > 1:
        label.append(f" x{node.count}", "bold")
    if node.failed:
        label.append(f"  failed: {one_line(node.span.status_message, 120)}", "red")
    return label


def _print(console: Console, line: Text) -> None:
    # On a terminal a tree is readable only if its lines do not wrap.
    if console.is_terminal:
        console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        console.print(line, soft_wrap=True)


def _nanoseconds(time: Timestamp) -> int:
    return time.seconds * 1_000_000_000 + time.nanos


def _milliseconds(span: trace_service_pb2.Span) -> float:
    return (_nanoseconds(span.end_time) - _nanoseconds(span.start_time)) / 1e6


def _duration(milliseconds: float) -> str:
    if milliseconds < 1000:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds / 1000:.2f} s"
