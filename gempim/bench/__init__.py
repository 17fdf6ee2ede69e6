"""How fast and how large the simulator is on this machine: `python -P -m gempim.bench`."""
