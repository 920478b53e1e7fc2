"""The live exit policy: what is in force, what was, what happened under it, and where that is kept.

    changes --(goals.Goals)--> a policy --(live.LivePolicy)--> versions.PolicyVersion --(store.PolicyStore)--> kept

All of these are plain values; the API decides their form on the wire. Code that answers requests only needs to capture
the policy (`captured`).
"""
