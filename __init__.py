"""groundbass: pretrain self-supervised music foundation models, measure what they learned, publish them.

The one door for everyday use is :func:`load_encoder`; everything else lives in the folders `data` (what do we hear?),
`models` (what function is it?), `pretrain` (what must it learn?) and `probe` (what did it learn?).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_classifier", "load_encoder", "predict"]

if TYPE_CHECKING:
    from pathlib import Path

    from .probe.apply.classify import Classifier, Prediction
    from .probe.apply.embedding import LoadedEncoder


def load_encoder(
    name_or_path: str | Path, device: Any = "cpu", dtype: Any = None, *, trust_remote_code: bool = False
) -> LoadedEncoder:
    """Load an encoder from a run, a published folder, a Hub name, any Hugging Face audio model, `file.py:Class`, or
    one of Microsoft's BEATs files (`.pt`).

    It has `hidden_states(waveform, valid, sample_rate)`, `valid_frames`, `sample_rate`, `frame_rate`, `dim`, `layers`
    (see `groundbass.models.encoder.Encoder`), and `embed(path_or_waveform, sample_rate, layers=-1, unit="track", …)`
    for recordings of any length (see `groundbass.probe.apply.embedding.LoadedEncoder.embed`).

    Args:
        name_or_path: where it lives.
        device: where it shall compute.
        dtype: of the weights, as torch.dtype or its name; None for float32. Answers are float32 in any case.
        trust_remote_code: run the Python that a folder or Hub model brings. Our own models never need it.

    Raises:
        FileNotFoundError: no such folder, file or model, or a folder that lacks config or weights.
        ValueError: code that isn't trusted, weights that don't fit the config, broken files, an unsupported kind of
            model, no such device.
    """
    from .models import encoder as models  # on first use, so that `import groundbass` doesn't wait for torch
    from .probe.apply.embedding import LoadedEncoder

    return LoadedEncoder(models.load_encoder(name_or_path, device, dtype, trust_remote_code=trust_remote_code))


def load_classifier(
    name_or_path: str | Path, device: str = "cpu", *, encoder: str | Path | None = None, trust_remote_code: bool = False
) -> Classifier:
    """Load a heads folder that `groundbass probe` wrote, a run that learned from labels, a published classifier, a
    tagger, or any Hugging Face audio classifier: `load_classifier("…")("song.mp3", unit="window") -> Prediction`.

    Raises:
        FileNotFoundError: there is no such folder or model.
        ValueError: no classifier in it, or heads of another encoder.
    """
    from .probe.apply.classify import load_classifier as load

    return load(name_or_path, device, encoder=encoder, trust_remote_code=trust_remote_code)


def predict(classifiers: Any = None, sound: Any = None, sample_rate: int | None = None) -> dict[str, Prediction]:
    """What classifiers (names, folders or loaded; None: what ships) say of a file or waveform: `{"key": …, …}`."""
    from .probe.apply.classify import hear_all

    return hear_all(classifiers, sound, sample_rate)
