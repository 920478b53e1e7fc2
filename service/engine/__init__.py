"""The online engine: it admits texts, runs them layer by layer and answers every one. It knows no HTTP."""
