"""Annotated data: reads files and lays gold entities over sequences. Training and evaluation share it."""
