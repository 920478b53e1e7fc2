"""The service's own client, behind the command `ask`. Knows the server by HTTP alone."""
