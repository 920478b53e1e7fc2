"""Makes the component from a pipeline's configuration, by the name that nlp.add_pipe takes."""

from typing import Any, Literal

from spacy.language import Language

from ner_client import Options
from ner_spacy.component import EarlyExitNer

DEFAULTS: dict[str, Any] = {
    "url": None,
    "labels": None,
    "min_score": None,
    "exit_policy": None,
    "alignment_mode": "expand",
    "spans_key": "early_exit_ner",
    "patience_s": 60.0,
}


@Language.factory(
    "early_exit_ner",
    assigns=["doc.ents", "doc.spans", "token.ent_iob", "token.ent_type"],
    default_config=DEFAULTS,
)
def make_early_exit_ner(
    nlp: Language,
    name: str,
    url: str | None,
    labels: list[str] | None,
    min_score: float | None,
    exit_policy: dict[str, Any] | None,
    alignment_mode: Literal["strict", "contract", "expand"],
    spans_key: str,
    patience_s: float,
) -> EarlyExitNer:
    """Return a component.

    url             the service; None: NER_URL, or else http://127.0.0.1:8000; the key is NER_API_KEY, and never saved
    labels          keep only entities of these labels
    min_score       keep only entities at least this probable
    exit_policy     parameters of the exit policy, or a goal such as {"preset": "fast"}, for these documents alone
    alignment_mode  of entities that begin or end within a token, as of Doc.char_span
    spans_key       of the span group, which has all entities, also those that lie in others
    patience_s      how long a request is sent again before its error is raised
    """
    options: Options = {"labels": labels, "min_score": min_score, "exit_policy": exit_policy}
    return EarlyExitNer(name, url, options, alignment=alignment_mode, spans_key=spans_key, patience_s=patience_s)
