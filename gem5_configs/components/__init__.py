"""Thin components of gem5's standard library: the cores, caches, memory and PIM of a gempim system."""
