"""The service's own client, behind the command `ask`. It knows the server by HTTP alone."""
