"""The shapes of requests and answers, one file per area of routes. What they mean is decided elsewhere.

Requests are models, since they have rules to check. Answers are typed dictionaries: a field may be absent, which is not
the same as null; mypy checks them where they are built; and pydantic checks and writes them faster than models.
"""
