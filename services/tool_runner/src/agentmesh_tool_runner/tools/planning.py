"""task_planner and progress_tracker: a plan that lives in the workspace as plan.json."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError, model_validator

from agentmesh_tool_runner.sandbox.backend import Workspace

from .tool import Arguments, Result, Tool, ToolContext, ToolReply

PLAN_FILE: Final = "plan.json"
_MAX_PLAN_BYTES: Final = 1024 * 1024
_MARKS: Final = {"todo": " ", "in_progress": "~", "done": "x", "blocked": "!"}

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Status = Literal["todo", "in_progress", "done", "blocked"]


class PlannedTask(Arguments):
    """One task of a plan."""

    title: Text
    owner: str = Field(default="", max_length=200, description="The agent that should do it.")
    depends_on: list[int] = Field(
        default_factory=list, description="Numbers, from 1, of the tasks that must be done before."
    )


class PlanArguments(Arguments):
    """A goal and the tasks that lead there."""

    goal: Text
    tasks: list[PlannedTask] = Field(min_length=1, max_length=200)

    @model_validator(mode="after")
    def _dependencies_exist(self) -> PlanArguments:
        for number, task in enumerate(self.tasks, start=1):
            for other in task.depends_on:
                if not 1 <= other <= len(self.tasks) or other == number:
                    raise ValueError(f"tasks.{number - 1}.depends_on: there is no task {other}")
        _in_order([task.depends_on for task in self.tasks])
        return self


class TrackedTask(PlannedTask):
    """A task of the stored plan."""

    status: Status = "todo"
    note: str = ""


class Plan(Arguments):
    """The stored plan."""

    goal: str
    tasks: list[TrackedTask]

    def render(self) -> str:
        """As text: a line per task, in an order in which they can be done, and what is next."""
        order = _in_order([task.depends_on for task in self.tasks])
        done = sum(task.status == "done" for task in self.tasks)
        lines = [f"Goal: {self.goal}", f"Progress: {done} of {len(self.tasks)} tasks done"]
        lines += [self._line(number) for number in order]
        ready = [number for number in order if self._is_ready(number)]
        if ready:
            lines.append("Next: " + ", ".join(f"#{number}" for number in ready))
        return "\n".join(lines)

    def _line(self, number: int) -> str:
        task = self.tasks[number - 1]
        owner = f" ({task.owner})" if task.owner else ""
        after = f" after {', '.join(f'#{n}' for n in task.depends_on)}" if task.depends_on else ""
        note = f" - {task.note}" if task.note else ""
        return f"[{_MARKS[task.status]}] #{number} {task.title}{owner}{after}{note}"

    def _is_ready(self, number: int) -> bool:
        task = self.tasks[number - 1]
        before = (self.tasks[other - 1].status == "done" for other in task.depends_on)
        return task.status in ("todo", "in_progress") and all(before)


def _in_order(depends_on: list[list[int]]) -> list[int]:
    """Task numbers, each after those it depends on. Raises ValueError on a circle."""
    order: list[int] = []
    left = list(range(1, len(depends_on) + 1))
    while left:
        ready = [number for number in left if set(depends_on[number - 1]) <= set(order)]
        if not ready:
            circle = ", ".join(f"#{number}" for number in left)
            raise ValueError(f"tasks: these wait for each other: {circle}")
        order += ready
        left = [number for number in left if number not in ready]
    return order


async def _load(workspace: Workspace) -> Plan | str:
    """The stored plan, or why there is none."""
    try:
        data = await workspace.read_file(PLAN_FILE, limit=_MAX_PLAN_BYTES)
        return Plan.model_validate_json(data)
    except FileNotFoundError:
        return "there is no plan yet; make one with task_planner"
    except (OSError, ValueError, ValidationError):
        return f"{PLAN_FILE} is not a plan that task_planner wrote; make a new one"


async def _store(workspace: Workspace, plan: Plan) -> None:
    content = json.dumps(plan.model_dump(), indent=2, ensure_ascii=False)
    await workspace.write_file(PLAN_FILE, content.encode())


class PlanResult(Result):
    """Of a plan."""

    tasks: int


class TaskPlanner(Tool[PlanArguments]):
    """Writes the plan."""

    name = "task_planner"
    description = (
        "Records a plan for a goal: tasks with owners and dependencies. Checks the dependencies, "
        "stores the plan in plan.json and answers with the tasks in an order they can be done in."
    )
    safe_to_repeat = True
    arguments = PlanArguments
    result = PlanResult

    async def act(self, context: ToolContext, arguments: PlanArguments) -> ToolReply:
        """Replaces the plan."""
        tasks = [TrackedTask(**task.model_dump()) for task in arguments.tasks]
        plan = Plan(goal=arguments.goal, tasks=tasks)
        await _store(context.workspace, plan)
        return ToolReply.ok(plan.render(), tasks=len(tasks))


class ProgressArguments(Arguments):
    """A report, or the new status of one task."""

    action: Literal["report", "update"] = "report"
    task: int | None = Field(default=None, ge=1, description="The task's number in the plan.")
    status: Status | None = None
    note: str | None = Field(default=None, max_length=2000)

    @model_validator(mode="after")
    def _update_names_a_task(self) -> ProgressArguments:
        if self.action == "update" and self.task is None:
            raise ValueError("task: an update names the task's number")
        if self.action == "update" and self.status is None and self.note is None:
            raise ValueError("status: an update gives a status, a note, or both")
        return self


class ProgressResult(PlanResult):
    """Of a plan that is followed."""

    done: int


class ProgressTracker(Tool[ProgressArguments]):
    """Reads and updates the plan."""

    name = "progress_tracker"
    description = "Reports how far the plan is, or updates the status and note of one of its tasks."
    safe_to_repeat = True
    arguments = ProgressArguments
    result = ProgressResult

    async def act(self, context: ToolContext, arguments: ProgressArguments) -> ToolReply:
        """Answers with the plan as it stands after the update."""
        plan = await _load(context.workspace)
        if isinstance(plan, str):
            return ToolReply.error(plan)
        if arguments.action == "update" and arguments.task is not None:
            if arguments.task > len(plan.tasks):
                return ToolReply.error(f"task: the plan has {len(plan.tasks)} tasks")
            plan = _updated(plan, arguments)
            await _store(context.workspace, plan)
        done = sum(task.status == "done" for task in plan.tasks)
        return ToolReply.ok(plan.render(), done=done, tasks=len(plan.tasks))


def _updated(plan: Plan, arguments: ProgressArguments) -> Plan:
    changes: dict[str, Any] = {}
    if arguments.status is not None:
        changes["status"] = arguments.status
    if arguments.note is not None:
        changes["note"] = arguments.note
    at = (arguments.task or 1) - 1
    tasks = list(plan.tasks)
    tasks[at] = tasks[at].model_copy(update=changes)
    return Plan(goal=plan.goal, tasks=tasks)
