"""The endpoints: one file per area, each with a `router`."""
