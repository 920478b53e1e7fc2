"""The one place where sequences step through a model: a passage, and what advances passages by a layer.

The engine, shadow runs, the warm-up, traces, predictions and policies that have to be run all step through here; so
what is served and what is evaluated cannot drift apart. Knows no requests, no threads and no clock.
"""
