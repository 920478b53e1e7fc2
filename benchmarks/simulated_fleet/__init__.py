"""A fleet of servers on a simulated clock, for `benchmarks.capacity`, with the service's own engine and control law.

    traffic (when requests come, for which texts) -> simulation -> routing -> replica -> figures

A replica is a machine (`machine`: cores, and who shares them) with serving processes (`process`: an event loop and an
engine). The engine (`stepped`) is the service's own, with its scheduler, admission and forecast, on a clock that the
simulation moves; what a layer takes, and when a sentence leaves, was measured and recorded (`costs`, `recording`).
"""
