"""fmriscale: shard fMRI data sets, pre-train on Next Thought Prediction, fine-tune for decoding.

    from fmriscale import CorpusWriter, FeatureSpace  # a corpus from your own code
    from fmriscale import Encoder, EncoderTransformer

The encoders bring torch, and scikit-learn, when they are first used; `import fmriscale` brings nothing.
"""

TYPE_CHECKING = False  # that of `typing`, without its import
if TYPE_CHECKING:
    from fmriscale.common.version import __version__
    from fmriscale.corpus.create import CorpusWriter
    from fmriscale.corpus.manifest import FeatureSpace
    from fmriscale.model.encoder import Encoder
    from fmriscale.transformer import EncoderTransformer

__all__ = ["CorpusWriter", "Encoder", "EncoderTransformer", "FeatureSpace", "__version__"]

_HOMES = {
    "CorpusWriter": "fmriscale.corpus.create",
    "Encoder": "fmriscale.model.encoder",
    "EncoderTransformer": "fmriscale.transformer",
    "FeatureSpace": "fmriscale.corpus.manifest",
    "__version__": "fmriscale.common.version",
}


def __getattr__(name: str) -> object:
    """Import what is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fmriscale' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
