"""fmriscale: shard fMRI data sets, pre-train on Next Thought Prediction, fine-tune for decoding."""

__version__ = "0.1.0"
