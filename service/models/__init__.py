"""The multi-exit encoder: its modules, how checkpoints map onto it, and how it is stored. Knows no policy."""
