"""ELECTRA (Clark et al. 2020): BERT whose embeddings may be narrower, projected after their LayerNorm."""

from __future__ import annotations

from service.models.backbones import bert
from service.models.backbones.family import Family

EMBEDDINGS = {**bert.EMBEDDINGS, "projection": "embeddings_project"}

FAMILY = Family("electra", ("electra.",), EMBEDDINGS, bert.LAYERS, bert.LAYER, bert.config)
