"""Text to sequences of words and pieces, and spans of words back to character offsets; knows no tensors."""
