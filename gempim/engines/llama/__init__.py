"""llama.cpp in gem5: `gempim run --engine gem5-se --gguf FILE --prompt TEXT`.

`request` is what is asked, `plan` what of it is simulated in detail, `session` runs gem5 (and `checkpoints` keeps what
can be used again), `output` reads the guest's stdout, `counters` gem5's statistics, `estimate` makes whole passes of
measured regions, `rundir` writes the run directory, which has the form of the embedded engine's.
"""

from gempim.engines.llama.request import LlamaRequest
from gempim.engines.llama.session import Outcome, run_llama

__all__ = ["LlamaRequest", "Outcome", "run_llama"]
