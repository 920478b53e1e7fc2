"""Promises of agreement with full depth: sampled, scored and certified on the traffic itself. All of it is pure.

    every sentence --(sampling.SampleBuffer, with probability q)--> a Sample: pieces and its weight, at most 1 / q
    a Sample, run once to full depth with all exits, gives readings
    readings --(scoring.LevelScorer)--> Scores: every level's exit layer, true positives, false positives and negatives
    Scores --(agreement.Promise)--> payoffs of at least -1: their mean is at least 0 where the promise is kept
    payoffs and weights --(wealth.Wealth, one per level)--> wealth: 1 / delta of it is a proof
    wealth --(certificates.Certificates)--> certified levels, from the safest on; alarms; windows
    Scores and weights --(estimates.TrafficEstimates)--> agreement and exit layer "on your traffic", with intervals

Nothing here knows threads, clocks, HTTP or the engine: who runs a sample and when, and what is served, is decided
elsewhere. Why all of it is valid stands in docs/promise.md.
"""
