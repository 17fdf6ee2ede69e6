"""Models: shapes and stored types of every tensor, from a GGUF file or from the shape table."""

from gempim.models.ggml import bits_per_weight, row_bytes
from gempim.models.gguf_header import GgufError
from gempim.models.gguf_reader import ARCHITECTURES, model_from_gguf
from gempim.models.quant import list_quants
from gempim.models.shapes import ModelInfo, describe_model, list_models, load_model, model_info
from gempim.models.spec import ModelSpec, TensorMap, WeightTensor

__all__ = [
    "ARCHITECTURES",
    "GgufError",
    "ModelInfo",
    "ModelSpec",
    "TensorMap",
    "WeightTensor",
    "bits_per_weight",
    "describe_model",
    "list_models",
    "list_quants",
    "load_model",
    "model_from_gguf",
    "model_info",
    "row_bytes",
]
