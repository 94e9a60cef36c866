"""What can go wrong, as operators see it.

    MqiError                     exit code
    ├── UsageProblem              2   the command line names something that is not there
    ├── NeedsOperator            40   only `status --check`
    ├── TemporaryProblem         75   will be tried again by itself
    │   ├── DatabaseBusy
    │   ├── DiskProblem               a disk that is full, read-only or gone
    │   ├── HostUnreachable           silence: nothing is known about what the host did
    │   └── TransferPaused            the transfer budget of this cycle is spent
    ├── LockWithoutProgress      76   a step lock whose holder does nothing
    ├── AuthenticationProblem    77   login or host key
    ├── ConfigurationProblem     78   configuration, or a corrupt or newer database
    │   └── DatabaseProblem
    ├── HostRefused              78   the host answered, and the answer is no; about one case, it is that case's
    └── IntakeProblem                 the folder is not a case that can be computed: that case's error likewise

Every message is one sentence for the screen; `hint` says what the operator can do. Codes 40 and 75 to
78 mean nothing to Windows, which attaches its own text to other numbers (facts: windows-and-schedulers).
"""

from __future__ import annotations

from collections.abc import Iterable


class MqiError(Exception):
    """A failure that is explained: `str(error)` is the sentence, `hint` the way out."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageProblem(MqiError):
    """The command line asks for something that is not there or not allowed now."""

    exit_code = 2


class NeedsOperator(MqiError):
    """`status --check`: at least one case waits for a person."""

    exit_code = 40


class TemporaryProblem(MqiError):
    """Nothing is broken for good; the next run tries again."""

    exit_code = 75


class DatabaseBusy(TemporaryProblem):
    """Another process held the database for longer than we wait."""


class DiskProblem(TemporaryProblem):
    """A disk on this side is full, read-only or gone."""


class HostUnreachable(TemporaryProblem):
    """No answer, or half of one. What the host did is unknown: ask again, never assume."""


class TransferPaused(TemporaryProblem):
    """The transfer budget of this command is spent; what has arrived is kept."""


class LockWithoutProgress(MqiError):
    """A step lock is held and its holder has made no progress for the configured time."""

    exit_code = 76


class AuthenticationProblem(MqiError):
    """The host rejects us, or is not the host that was pinned."""

    exit_code = 77


class ConfigurationProblem(MqiError):
    """The configuration cannot be used."""

    exit_code = 78


class DatabaseProblem(ConfigurationProblem):
    """The database is corrupt, or newer than this program."""


class HostRefused(MqiError):
    """The host understood and said no. `code` is a word of the agent's vocabulary."""

    exit_code = 78

    def __init__(self, message: str, code: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


class IntakeProblem(MqiError):
    """The folder does not hold a case that can be computed; somebody has to correct the folder."""


# What may go wrong in talking to one host; the other hosts go on.
HOST_ERRORS = (TemporaryProblem, AuthenticationProblem, HostRefused, ConfigurationProblem)


def is_of_a_case(error: MqiError) -> bool:
    """True for what is wrong with one case: it shows in `status`, and the command itself has done its work."""
    return isinstance(error, IntakeProblem) or (isinstance(error, HostRefused) and error.code == "refused")


# When several things went wrong in one command, the one that most needs a person decides.
PRECEDENCE = (78, 77, 76, 75)


def exit_code_of(errors: Iterable[MqiError]) -> int:
    """The exit code of a command that met these errors: 0 for none, else by PRECEDENCE, else 1."""
    codes = {error.exit_code for error in errors}
    for code in PRECEDENCE:
        if code in codes:
            return code
    return max(codes, default=0)
