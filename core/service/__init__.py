"""Roofscope over HTTP: its own API, and an OpenAI-compatible server over the strategies (core/service/README.md)."""
