"""What a gem5 run is to simulate, without gem5: options, resolved system, cache and DRAM geometry, regions of interest.

Nothing here imports m5, so that every rule in it is tested with plain Python, and a wrong option is refused before gem5
builds anything. Python 3.8 syntax; `tomllib` only where it exists.
"""
