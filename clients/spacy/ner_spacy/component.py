"""The component: it asks the service for the entities of documents, and aligns them with their tokens."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from spacy.tokens import Doc, Span, SpanGroup
from spacy.util import filter_spans, minibatch, raise_error

from ner_client import Client, Options, Result, TextsRefused

Alignment = Literal["strict", "contract", "expand"]
ErrorHandler = Callable[[str, "EarlyExitNer", list[Doc], Exception], Any]


class EarlyExitNer:
    """Sets `doc.ents`, and a span group that has all entities, those that lie in others too, with their scores.

    `doc.ents` may not overlap: it keeps what an earlier component has set, and of nested entities gets the longest.

    A document that the service refuses raises ner_client.TextsRefused, unless nlp.set_error_handler says otherwise. A
    service that cannot be asked raises ner_client.ServerLost, in `pipe` whatever the handler: no document is lost.
    """

    def __init__(
        self, name: str, url: str | None, options: Options, *, alignment: Alignment, spans_key: str, patience_s: float
    ) -> None:
        """Ask for nothing yet; raise ValueError for what is no address. The key is NER_API_KEY, and is never saved.

        url        the service; None: NER_URL, or else http://127.0.0.1:8000
        alignment  of an entity that begins or ends within a token: grow it, shrink it, or leave it out (strict)
        """
        self.name = name
        self._url = url
        self._options = options
        self._alignment = alignment
        self._spans_key = spans_key
        self._patience_s = patience_s
        self._error_handler: ErrorHandler = raise_error
        self._client: Client | None = None
        self._process = 0
        self._connected()

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs, which makes connections of its own."""
        return {**self.__dict__, "_client": None}

    def set_error_handler(self, error_handler: ErrorHandler) -> None:
        """See spacy.pipeline.Pipe."""
        self._error_handler = error_handler

    def __call__(self, doc: Doc) -> Doc:
        """Set the entities of one document. Raises TextsRefused or ServerLost."""
        return self._set(doc, self._connected().ner(doc.text, **self._options))

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Set the entities of documents; `batch_size` of them are asked for at a time, in several requests."""
        for docs in minibatch(stream, batch_size):
            texts = [doc.text for doc in docs]
            results = self._connected().ner_many(texts, return_exceptions=True, **self._options)
            for doc, result in zip(docs, results, strict=True):
                if isinstance(result, TextsRefused):
                    self._error_handler(self.name, self, [doc], result)
                else:
                    yield self._set(doc, result)

    def _connected(self) -> Client:
        """Return a client whose connections are of this process, and not of the one that it was forked from."""
        if self._client is None or self._process != os.getpid():
            self._client, self._process = Client(self._url, patience_s=self._patience_s), os.getpid()
            weakref.finalize(self, self._client.close)
        return self._client

    def _set(self, doc: Doc, result: Result) -> Doc:
        found = [
            (span, entity["score"])
            for entity in result["entities"]
            if (span := doc.char_span(entity["start"], entity["end"], entity["label"], alignment_mode=self._alignment))
        ]
        spans = [span for span, _ in found]
        scores = [score for _, score in found]
        doc.spans[self._spans_key] = SpanGroup(doc, name=self._spans_key, attrs={"scores": scores}, spans=spans)
        doc.ents = [*doc.ents, *filter_spans(_beside(doc.ents, spans))]
        return doc


def _beside(taken: Iterable[Span], spans: Iterable[Span]) -> list[Span]:
    """Return the spans that share no token with those that are taken."""
    tokens = {token.i for span in taken for token in span}
    return [span for span in spans if tokens.isdisjoint(range(span.start, span.end))]
