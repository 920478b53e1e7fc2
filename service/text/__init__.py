"""Turns texts into sequences of words and pieces, and spans of words back into character offsets; knows no tensors."""
