"""What a Linux boot in gem5's full-system mode needs, made from Debian's packages and our own few sources.

`build.build_linux` makes it; README.md beside this file says how it works.
"""
