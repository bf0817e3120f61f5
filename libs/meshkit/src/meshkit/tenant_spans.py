"""Whose a span is: marked when it starts, asked before it is shown."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from meshkit.context import find_capability, find_principal

TENANT_ATTRIBUTE = "agentmesh.tenant"


def belongs_to(span: ReadableSpan, tenant: str) -> bool:
    """Whether `tenant` may see the span. One without a mark is the mesh's own and nobody's."""
    return bool(tenant) and (span.attributes or {}).get(TENANT_ATTRIBUTE) == tenant


def tenant_in_scope() -> str:
    """The tenant that is worked for: that of the run capability, else of the principal, or ""."""
    capability = find_capability()
    if capability is not None:
        return capability.tenant
    principal = find_principal()
    return principal.tenant if principal is not None else ""


class TenantMarker(SpanProcessor):
    """Marks every span, those of libraries too, with the tenant in scope where it starts."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Marks the span unless it says already whose it is."""
        tenant = tenant_in_scope()
        if tenant and TENANT_ATTRIBUTE not in (span.attributes or {}):
            span.set_attribute(TENANT_ATTRIBUTE, tenant)
