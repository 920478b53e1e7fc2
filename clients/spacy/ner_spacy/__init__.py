"""The spaCy component `early_exit_ner`, which asks the named-entity service with early exit.

nlp = spacy.blank("en")
nlp.add_pipe("early_exit_ner", config={"url": "http://127.0.0.1:8000"})
"""

from ner_spacy.component import EarlyExitNer
from ner_spacy.factory import make_early_exit_ner

__version__ = "0.5.0"

__all__ = ["EarlyExitNer", "make_early_exit_ner"]
