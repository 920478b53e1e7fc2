"""What every calibrated level gives on the traffic, and what follows from it for the policy in force.

    engine --(samples.SampleRun)--> on_traffic.TrafficLevels: scores every level, tests the promise --(Standing)-->
    keeper.PromiseKeeper, a thread --(LivePolicy.change: the fastest certified level)--> the policy in force

The maths is in `service.promise`; what is promised is a matter of `service.policy`.
"""
