"""Data and a recipe to try training out: see docs/your-own-model.md."""
