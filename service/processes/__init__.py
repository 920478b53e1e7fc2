"""Several serving processes on one port: one policy, one readiness, one page of metrics."""
