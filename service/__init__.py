"""Named-entity recognition with early exit: a BERT encoder with a biaffine span classifier after every layer."""

__version__ = "0.5.0"
