"""The process that runs models: sessions, passes, evaluations and transforms, and the journal they write."""
