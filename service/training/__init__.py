"""Trains a multi-exit model from a pretrained encoder and annotated data. Serving never imports it."""
