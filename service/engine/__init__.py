"""The online engine: admits texts, runs them layer by layer, answers every one. Knows no HTTP."""
