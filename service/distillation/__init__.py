"""Makes a model with exits of a Transformers token classifier, on texts without labels. Training itself is not here."""
