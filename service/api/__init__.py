"""HTTP: shapes on the wire, keys, errors to status codes, routes. No decision about entities or exits is made here."""
