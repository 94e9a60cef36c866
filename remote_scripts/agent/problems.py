"""What the agent says when it does not do something."""

from __future__ import annotations


class Refused(Exception):
    """An answer of the agent: `code` is a word of the protocol, the message a sentence for operators."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class QueueProblem(Exception):
    """The queue does not answer. What it holds is unknown: nothing is concluded from that."""


class NotTaken(QueueProblem):
    """The queue answers, and does not take this job; it may take jobs of other groups."""
