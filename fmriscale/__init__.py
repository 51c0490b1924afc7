"""fmriscale: shard fMRI data sets, pre-train on Next Thought Prediction, fine-tune for decoding.

    from fmriscale import Encoder, EncoderTransformer

These two names bring torch, and scikit-learn, when they are first used; `import fmriscale` brings nothing.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # that of `typing`, without its import
if TYPE_CHECKING:
    from fmriscale.model.encoder import Encoder
    from fmriscale.transformer import EncoderTransformer

__all__ = ["Encoder", "EncoderTransformer", "__version__"]

_HOMES = {"Encoder": "fmriscale.model.encoder", "EncoderTransformer": "fmriscale.transformer"}


def __getattr__(name: str) -> type:
    """Import what is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fmriscale' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
