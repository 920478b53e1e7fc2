"""The span table: this package knows its layout, decodes it, and compares spans with gold ones."""
