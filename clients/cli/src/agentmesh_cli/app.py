"""The command line as a whole: its commands, its errors, its exit status."""

import sys
from collections.abc import Sequence

import cyclopts
from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from agentmesh_cli import __version__
from agentmesh_cli.commands import (
    agents,
    approvals,
    audit,
    chat,
    conversations,
    health,
    keys,
    run,
    sharing,
    steering,
    up,
)
from agentmesh_cli.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, CliError
from agentmesh_cli.rendering.terminal_text import strip_controls

HELP = "Run AutoGen multi-agent conversations on a mesh of gRPC services."
EXAMPLES = """Examples:
  agentmesh run --with-mesh              start a mesh, run one conversation, stop the mesh
  agentmesh up                           start a mesh and keep it running until Ctrl-C
  agentmesh run "write a haiku"          start a conversation on it and watch
  agentmesh list                         list conversations
  agentmesh watch conv_…                 follow one of them live
  agentmesh chat conv_…                  take part: send messages, answer, approve
  agentmesh approvals                    list what waits for a person
  agentmesh keys create --role operator  create an API key

Exit status: 0 success, 1 failure, 2 usage error, 130 interrupted.
`agentmesh COMMAND --help` shows the options and examples of a command.
"""


def build_app(console: Console, error_console: Console) -> App:
    """The command line, printing to `console`."""
    app = App(
        name="agentmesh",
        help=HELP,
        help_epilogue=EXAMPLES,
        version=__version__,
        help_format="plaintext",
        console=console,
        error_console=error_console,
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
        default_parameter=Parameter(show_default=_default_shown),
    )
    up.register(app, console)
    run.register(app, console)
    conversations.register(app, console)
    chat.register(app, console)
    steering.register(app, console)
    sharing.register(app, console)
    agents.register(app, console)
    approvals.register(app, console)
    health.register(app, console)
    keys.register(app, console)
    audit.register(app, console)

    @app.command
    def version() -> int:
        """Print the version of this command."""
        console.print(f"agentmesh {__version__}")
        return EXIT_OK

    return app


def _default_shown(value: object) -> str | None:
    """In help: nothing for options that are off or empty unless they are given."""
    return None if value is None or value is False or value == "" else str(value)


# Wide enough for what is written to files and pipes, where nothing has to wrap.
_WIDTH_ELSEWHERE = 160


def make_console(*, stderr: bool = False) -> Console:
    """A console that takes nothing it is given for markup. NO_COLOR is honoured by rich."""
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH_ELSEWHERE)
    return console


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    console, error_console = make_console(), make_console(stderr=True)
    app = build_app(console, error_console)
    try:
        status = app(sys.argv[1:] if arguments is None else list(arguments))
    except cyclopts.CycloptsError as error:
        _complain(error_console, str(error))
        return EXIT_USAGE
    except CliError as error:
        _complain(error_console, str(error))
        return error.exit_status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return status if isinstance(status, int) else EXIT_OK


def _complain(console: Console, message: str) -> None:
    console.print(
        Text.assemble(("agentmesh: ", "bold red"), strip_controls(message)), soft_wrap=True
    )
