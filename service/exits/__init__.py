"""When to leave: consistency of two layers, confidence of one, and the strategies that decide by them. Pure maths."""
