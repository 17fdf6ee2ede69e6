"""gempim: processing-in-memory hardware for LLM inference, simulated."""

__version__ = "0.1.0"
