"""The service as an application of Ray Serve, on many machines. Nothing else of the service knows of Ray."""
