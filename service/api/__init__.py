"""HTTP: routes, shapes on the wire, keys, status codes of errors. No decision about entities or exits is made here."""
