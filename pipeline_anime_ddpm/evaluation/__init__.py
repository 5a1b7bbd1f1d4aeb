"""Judging a model: `evaluate(EvaluationConfig(model=..., dataset=...))`, and what it is made of."""

from .settings import EvaluationConfig, ReferenceConfig

__all__ = ["EvaluationConfig", "ReferenceConfig", "evaluate"]


def __getattr__(name: str):
    if name == "evaluate":  # whose packages are needed only then
        from .recipe import evaluate

        return evaluate
    raise AttributeError(name)
