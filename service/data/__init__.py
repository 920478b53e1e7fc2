"""Annotated data: readers of files, and gold entities laid over sequences. Shared by training and evaluation."""
