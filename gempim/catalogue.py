"""What ships with gempim, as tables: systems and models with the source of every number."""

from __future__ import annotations

import pandas as pd

from gempim.models import describe_model, list_models, model_info
from gempim.systems import list_systems, load_system


def systems_table() -> pd.DataFrame:
    """One row a shipped system."""
    rows = []
    for name in list_systems():
        s = load_system(name)
        rows.append({"system": name, "kind": s.kind, "title": s.title, "description": s.description})
    return pd.DataFrame(rows)


def system_rows(name: str) -> pd.DataFrame:
    """One row a parameter of a system: value, unit, scope, kind and source."""
    s = load_system(name)
    return pd.DataFrame(
        [
            {
                "parameter": f"{section}.{key}",
                "value": q.value,
                "unit": q.unit,
                "scope": q.scope,
                "kind": q.kind,
                "source": q.source,
            }
            for section, params in s.sections.items()
            for key, q in params.items()
        ]
    )


def models_table() -> pd.DataFrame:
    """One row a shipped model shape."""
    rows = []
    for name in list_models():
        info = model_info(name)
        rows.append({"model": name, "arch": info.arch, "params": info.published_params.value, "title": info.title})
    return pd.DataFrame(rows)


def model_rows(name: str) -> pd.DataFrame:
    """One row a hyperparameter of a model shape: value, unit, kind and source."""
    return pd.DataFrame(describe_model(name))
