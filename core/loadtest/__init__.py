"""Load tests of a model server: what is sent when, what came back, and what that says. No model is loaded here."""
