"""The live exit policy: what is in force, what was, what happened under it, and where that is kept.

    changes --(goals.Goals)--> a policy --(live.LivePolicy)--> versions.PolicyVersion --(store.PolicyStore)--> kept

All of it is values: what they look like on the wire is the API's business. Whoever answers requests captures the policy
(`captured`), and needs to know no more than that.
"""
