"""How approvals are resolved: by a person, by time, or because nobody needs them any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from meshkit.roles import Role

from . import runs
from .approvals import Approval, ApprovalStatus
from .changes import Changes, Decision, Loaded, Lookup, Scope, Transition
from .model import Instant, Origin
from .rejections import Reason, Rejection, invalid, not_found
from .resolving import settle

_OF_CALLS = (ApprovalStatus.APPROVED, ApprovalStatus.REJECTED, ApprovalStatus.EDITED)
_OF_QUESTIONS = (ApprovalStatus.APPROVED, ApprovalStatus.REJECTED, ApprovalStatus.ANSWERED)


@dataclass(frozen=True, slots=True)
class ResolveApproval:
    """Decides an approval; its run goes on if it waits for nothing else."""

    tenant: str
    conversation_id: str
    run_id: str
    approval_id: str
    status: ApprovalStatus
    comment: str
    edited_arguments_json: str
    principal: str
    role: Role

    @property
    def scope(self) -> Scope:
        """The approval with the runs of its conversation."""
        return Scope(
            self.tenant,
            self.conversation_id,
            run_id=self.run_id,
            live_runs=True,
            lookups=(Lookup(Approval, (self.approval_id,)),),
        )

    def decide(self, loaded: Loaded, now: Instant) -> Decision[Approval]:
        """The same decision again is harmless, another one is refused."""
        approval = loaded.found.get(Lookup(Approval, (self.approval_id,)))
        if not isinstance(approval, Approval):
            raise not_found("approval", self.approval_id)
        self._require_role(approval, now)
        if approval.status is not ApprovalStatus.PENDING:
            return Decision(Changes(), self._repeated(approval))
        self._require_kind(approval)
        if approval.expires_at <= now:
            raise _already(approval, ApprovalStatus.EXPIRED)
        transition = Transition(loaded, self.scope, now)
        resolved = replace(
            approval,
            status=self.status,
            principal=self.principal,
            comment=self.comment,
            edited_arguments_json=self.edited_arguments_json,
        )
        run = settle(transition, resolved, Origin.API)
        runs.go_on_if_free(transition, run, Origin.API)
        runs.reflect(transition)
        return Decision(transition.done(), transition.approvals[self.approval_id])

    def _require_role(self, approval: Approval, now: Instant) -> None:
        required = approval.role_at(now)
        if not self.role.includes(required):
            raise Rejection(
                Reason.ROLE_TOO_LOW,
                f"{approval.approval_id} is for the role {required.name.lower()} to decide",
                required_role=required.name.lower(),
                role=self.role.name.lower(),
            )

    def _require_kind(self, approval: Approval) -> None:
        about, possible = (
            ("a call", _OF_CALLS) if approval.tool_call else ("a question", _OF_QUESTIONS)
        )
        if self.status not in possible:
            raise invalid("status", f"{_names(possible)} are for an approval of {about}")

    def _repeated(self, approval: Approval) -> Approval:
        mine = (self.status, self.comment, self.edited_arguments_json)
        if mine != (approval.status, approval.comment, approval.edited_arguments_json):
            raise _already(approval, approval.status)
        return approval


def _already(approval: Approval, status: ApprovalStatus) -> Rejection:
    name = status.name.lower()
    return Rejection(
        Reason.ALREADY_DECIDED, f"{approval.approval_id} is {name} already", status=name
    )


def _names(statuses: Sequence[ApprovalStatus]) -> str:
    return ", ".join(status.name for status in statuses)
