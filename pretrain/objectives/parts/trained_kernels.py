"""Spectrogram kernels that learn, by nnAudio (Cheuk, Anderson, Agres and Herremans 2020, arXiv:1912.12055).

While an encoder trains, nnAudio's layer computes its mel spectrum with the weights of `models.frontends.TrainedLogMel`,
under whose names they are saved; so what is published holds them in our own layer, and loads without nnAudio.
"""

from __future__ import annotations

from nnAudio.features.mel import MelSpectrogram
from torch import Tensor
from torch.func import functional_call

from ....models.frontends import MelFrontEnd, TrainedLogMel
from ....models.mert import MertModel


class NnAudioLogMel(TrainedLogMel):
    """`TrainedLogMel` computed by nnAudio's layer."""

    def __init__(self, own: TrainedLogMel, sample_rate: int) -> None:
        """Take over the weights of `own`, a layer for `sample_rate` Hz."""
        super().__init__(sample_rate, own.n_fft, own.hop, len(own.filters))
        self.load_state_dict(own.state_dict())
        layer = MelSpectrogram(
            sample_rate, own.n_fft, n_mels=len(own.filters), hop_length=own.hop, center=True, pad_mode="constant",
            power=2.0, trainable_mel=True, trainable_STFT=True, verbose=False,
        )  # fmt: skip
        self._layer = [layer]  # in a list, out of parameters and state_dict

    def energies(self, waveform: Tensor) -> Tensor:
        """See `TrainedLogMel`."""
        ours = {"stft.wcos": self.cosines, "stft.wsin": self.sines, "mel_basis": self.filters}
        weights: dict[str, Tensor] = {name: weight.float() for name, weight in ours.items()}
        mel: Tensor = functional_call(self._layer[0].to(waveform.device), weights, (waveform,))
        return mel


def train_by_nnaudio(encoder: MertModel) -> None:
    """Let nnAudio compute the mel spectrum of an encoder whose kernels are trained; others stay as they are."""
    front_end = encoder.feature_extractor
    if isinstance(front_end, MelFrontEnd) and isinstance(front_end.log_mel, TrainedLogMel):
        front_end.log_mel = NnAudioLogMel(front_end.log_mel, encoder.config.sample_rate)
