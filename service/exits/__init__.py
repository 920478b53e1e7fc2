"""Decides when a sequence leaves: by measures of one layer or of two, and strategies that use them. Pure maths."""
