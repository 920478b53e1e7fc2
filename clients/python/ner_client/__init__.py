"""A client of the named-entity service with early exit: `Client`, and `AsyncClient` for asyncio.

from ner_client import Client

with Client() as client:
    for entity in client.ner("Angela Merkel flew to Rome.")["entities"]:
        print(entity["label"], entity["text"])
"""

from ner_client.asynchronous import AsyncClient
from ner_client.errors import NerError, ServerLost, TextsRefused
from ner_client.synchronous import Client
from ner_client.wire import Entity, Model, Options, Result, Sequence, Timing

__version__ = "0.5.0"

__all__ = [
    "AsyncClient",
    "Client",
    "Entity",
    "Model",
    "NerError",
    "Options",
    "Result",
    "Sequence",
    "ServerLost",
    "TextsRefused",
    "Timing",
]
