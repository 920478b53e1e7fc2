"""The errors that the clients raise. Each says what happened, and what to do about it.

NerError
  TextsRefused   the server refused these texts, or failed on them; others may be answered
  ServerLost     no server, another server, a wrong key, or no room for longer than the client waits
"""

from __future__ import annotations


class NerError(Exception):
    """The base of all errors of the clients.

    status      of the answer; None if there was none
    error_type  the server's name of the error, for programs; empty if it gave none
    request_id  finds the request in the server's log; empty if there was no answer
    """

    def __init__(self, message: str, *, status: int | None = None, error_type: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.request_id = request_id


class TextsRefused(NerError):
    """The server refused these texts, or failed on them; other texts may be answered.

    index  which of the texts of `ner_many` it was, from 0; None for `ner`, and where the options were refused
    """

    index: int | None = None


class ServerLost(NerError):
    """There is no server, another server, the key is wrong, or there was no room for longer than the client waits."""
