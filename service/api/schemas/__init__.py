"""The shapes of what is sent and of what is answered, by routes. What they mean is decided elsewhere."""
