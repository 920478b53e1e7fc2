"""The errors that several parts of the service raise on purpose, grouped by what the caller can do about them.

They know nothing of HTTP. An error that only one part raises is defined in that part.

ServiceError
  BadInput            what was sent cannot be used as it is: change it
    TooLarge          it is over a limit that the operator set: send less
  ModelRefused        a model folder, tokenizer or checkpoint that cannot be trusted or does not fit
  DataRefused         a data file with a malformed line
  Overloaded          the queue is full, or the answer would come too late: send it again later
  NotReady            starting up or draining
  TimedOut            the request's own time limit passed
  PolicyConflict      somebody changed the exit policy first
  EngineFailed        a fault of ours; the details are in the log
"""

from __future__ import annotations


class ServiceError(Exception):
    """The base of all errors; its message says what was given, what was expected and what to do."""


class BadInput(ServiceError):
    """What was sent cannot be used as it is."""


class TooLarge(BadInput):
    """What was sent is over a limit that the operator set."""


class ModelRefused(ServiceError):
    """A model folder, tokenizer or checkpoint lacks something or fails a check."""


class DataRefused(ServiceError):
    """A data file cannot be read; the message names file and line."""


class Overloaded(ServiceError):
    """The service has no room for more work at the moment; `retry_after_s` says in how many seconds it may have."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotReady(ServiceError):
    """The service is starting up or draining."""


class TimedOut(ServiceError):
    """The request's own time limit passed before its answer was ready."""


class PolicyConflict(ServiceError):
    """The exit policy changed since the caller read it."""


class EngineFailed(ServiceError):
    """The engine failed while it ran a request, by a fault of the service."""
