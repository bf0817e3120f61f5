"""What can go wrong on the command line, and the exit statuses that say so."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class CliError(Exception):
    """An expected failure: shown as one line on standard error, never as a traceback.

    `remedy` says what to do about it; `exit_status` is the status of the process.
    """

    def __init__(self, message: str, *, remedy: str = "", exit_status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.exit_status = exit_status

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class UsageError(CliError):
    """The command line asks for something that cannot be meant."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy, exit_status=EXIT_USAGE)
