# The compiled device models (src_ext/engine). Their Python face is in their docstrings: help(gempim._engine).
from typing import Any

def __getattr__(name: str) -> Any: ...
