"""Evaluation: this package works out how good exits and policies are on annotated data. Serving never imports it."""
