"""The only place where sequences step through a model: passages, and the function that advances them by a layer.

The engine, shadow runs, the warm-up, traces, predictions and evaluations all use it, so what is served and what is
evaluated cannot drift apart. It knows no requests, no threads and no clock.
"""
