"""Engines: what turns operators on a system into time and event counts."""
