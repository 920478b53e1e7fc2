"""The autopilot: moves the exit policy along the calibrated points, so that p95 keeps its objective in peak hours.

    route, engine --(what happened)--> traffic.Traffic --(Observation, ten a second)--> law.ControlLaw --(level)-->
    pilot.Autopilot --(LivePolicy.change, against the version it looked at)--> the policy in force

`traffic` counts, `law` decides and is pure, `pilot` is the thread between them. The live policy (`service.policy`)
determines which policies the autopilot may choose from, and whether it is on.
"""
