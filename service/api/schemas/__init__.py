"""The shapes of what is sent and of what is answered, by routes. What they mean is decided elsewhere.

Requests are models, since they have rules to keep. Answers are typed dictionaries: a field may be absent, which is not
the same as null, mypy reads them where they are built, and pydantic checks and writes them faster than models.
"""
