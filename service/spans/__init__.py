"""The span table: which cells count, how it is decoded, how spans are compared with gold."""
