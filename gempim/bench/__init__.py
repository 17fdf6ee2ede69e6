"""How fast and how large the simulator is on this machine: `python -m gempim.bench`."""
