"""Which encoder reads what a loader delivers."""

from fmriscale.common.errors import UserError
from fmriscale.config import PretrainConfig
from fmriscale.model.presets import EncoderConfig, resolve_encoder
from fmriscale.sampling.loader import NTPLoader


def shape_for(config: PretrainConfig, loader: NTPLoader) -> EncoderConfig:
    """Resolve the encoder that reads all spaces and sequences of a loader."""
    spaces = {name: space.n_features for name, space in loader.spaces.items()}
    shape = resolve_encoder(config.model, spaces, loader.length)
    lengths = sorted({group.length for group in loader.groups})
    if shape.positions == "learned" and len(lengths) > 1:
        raise UserError(
            f"model.preset {shape.preset} learns a vector for each place of a sequence, but pairs.length "
            f"{config.data.pairs.length} is {', '.join(map(str, lengths))} volumes in these data sets: give "
            "it in volumes, or take preset tiny or base"
        )
    return shape
