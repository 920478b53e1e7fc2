"""What every exit says on annotated data, and how good it is. Serving never imports it."""
