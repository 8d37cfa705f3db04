"""Learning labels with networks that were made for it: convolutional taggers, PANNs, AST, HTS-AT, by their own heads.

M. Won et al. 2020, "Evaluation of CNN-based automatic music tagging models" (arXiv:2006.00751); M. Won et al. 2021
(Music Tagging Transformer); Q. Kong et al. 2020 (PANNs); Y. Gong et al. 2021 (AST); K. Chen et al. 2022 (HTS-AT). As
`labelled.*`, but the network is fresh, hears one window of its own length, and answers by its own head; noise is put
where each family puts it: SpecAugment on the standardised spectrogram, mixup on the waveform or on the spectrogram.

    groundbass pretrain tagging.fcn_mtt --objective.labels tags --data MANIFEST --run RUN
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.crops import CropConfig
from ...data.draws import draw_seed, draw_seeds, sent
from ...data.track import Manifest
from ...models.classifier import AudioClassifier
from ...models.classifier_files import make_classifier
from ...models.heads import Head, HeadConfig
from ...models.htsat import HtsatConfig, HtsatModel
from ...models.music_taggers import SIZES, MusicTaggerConfig, MusicTaggerModel
from ...models.panns import NETWORKS, PannsConfig, PannsModel
from ...models.spectrogram_transformer import SpectrogramTransformerConfig, SpectrogramTransformerModel
from ...models.tagging_transformer import TaggingTransformerConfig, TaggingTransformerModel
from ..clock import section
from ..objective import Loss, Objective
from ..recipe import Optim, Phase, Recipe
from .labelled import VALID_SECONDS, Labelled, LabelledConfig, Mixup, _averaged_name, judged
from .parts.label_targets import Answers, Clips

if TYPE_CHECKING:
    from ...data.batch import Batch

STRIPES, WEIGHTS = 405, 406  # streams of draws
PLACEHOLDER = 10  # outputs before the labels say how many


@dataclass(frozen=True)
class Stripes:
    """SpecAugment on the spectrogram that the network hears: Park et al. 2019, filled with its mean (0)."""

    times: int = 0
    """stripes of time per clip"""
    time_width: int = 64
    """steps that a stripe may be wide, drawn evenly from 0"""
    bands: int = 0
    """stripes of frequency per clip"""
    band_width: int = 8
    """bins that a stripe may be wide, drawn evenly from 0"""


@dataclass(frozen=True)
class TaggingConfig(LabelledConfig):
    """Configuration: which network, and what is done to the sound; `encoder` and the settings of heads mean nothing."""

    network: str = "fcn"  # type: ignore[assignment]
    """fcn, musicnn, crnn, sample, se, attention, hcnn, short, short_res; mtt; Cnn6, Cnn10, Cnn14 and
    Cnn14_DecisionLevelMax, …Avg, …Att; ast; htsat"""
    width: float = 1.0
    """multiplies the channels (mtt, ast and htsat: of 256, 768 and 96), for small machines"""
    depth: int | None = None
    """blocks of ast; None: 12"""
    sample_rate: int = 16_000
    """Hz"""
    window_samples: int = 464_000
    """samples that the network answers on; the recipe's crops are as long"""
    msd: bool = False
    """MusiCNN as large as for the Million Song Dataset"""
    stripes: Stripes = field(default_factory=Stripes)
    mixed: Literal["waveform", "spectrogram"] = "waveform"
    """what mixup mixes"""

    def build(self) -> Tagging:
        """Draw the network; its outputs come with the labels, in `prepare`."""
        return Tagging(self)

    def draw(self, classes: int) -> Any:
        """The network with fresh weights."""
        sound: dict[str, Any] = {
            "classes": classes,
            "sample_rate": self.sample_rate,
            "window_samples": self.window_samples,
        }
        if self.network in SIZES:
            large: dict[str, Any] = {"back_end": 512, "hidden": 500} if self.msd else {}
            return MusicTaggerModel(MusicTaggerConfig(network=self.network, width=self.width, **large, **sound))
        if self.network == "mtt":
            channels = max(8, round(128 * self.width))
            hidden = max(8, 8 * round(32 * self.width))
            return TaggingTransformerModel(TaggingTransformerConfig(channels=channels, hidden_size=hidden, **sound))
        if self.network in NETWORKS:
            make = PannsConfig.at_16k if self.sample_rate == 16_000 else PannsConfig
            return PannsModel(make(network=self.network, width=self.width, **sound))
        if self.network == "ast":
            heads = max(1, round(12 * self.width))
            spectra = self.window_samples * 100 // self.sample_rate + 24
            return SpectrogramTransformerModel(
                SpectrogramTransformerConfig(
                    hidden_size=64 * heads, num_attention_heads=heads, num_hidden_layers=self.depth or 12,
                    spectra=spectra, **sound,
                )
            )  # fmt: skip
        if self.network == "htsat":
            first = max(1, round(4 * self.width))
            hop, high = (320, 14_000.0) if self.sample_rate == 32_000 else (160, self.sample_rate / 2)
            heads_of = tuple(first << i for i in range(4))
            return HtsatModel(HtsatConfig(hidden_size=24 * first, heads=heads_of, hop=hop, high=high, **sound))
        known = ", ".join([*SIZES, "mtt", *NETWORKS, "ast", "htsat"])
        raise ValueError(f"There is no network {self.network!r}; there is {known}.")


class Tagging(Labelled):
    """One question, answered by the network's own head; the weight counts clips."""

    config: TaggingConfig

    def __init__(self, config: TaggingConfig) -> None:
        Objective.__init__(self)
        self.config = config
        if len(config.questions) != 1:
            asked = ", ".join(task.label for task in config.questions) or "nothing"
            raise ValueError(f"A tagger's head answers one question, and {asked} is asked: --objective.labels tags")
        self.encoder, self._origin = config.draw(PLACEHOLDER), None
        self.heads = nn.ModuleList()
        self.answers: list[Answers] = []
        self.shares: list[float] = []
        self._labels_hash = ""
        self._valid: Manifest | None = None
        self._valid_rows = np.zeros(0, bool)
        self._valid_answers: list[Answers] = []
        self.validate_every, self.patience = config.validate_every, config.patience
        self._judges: tuple[Head, ...] = ()

    def _draw_heads(self) -> None:
        """A network with as many outputs as there are labels; what was loaded into the first one stays."""
        (answers,) = self.answers
        if not answers.kind.nominal or answers.kind.over_time:
            raise ValueError(f"A tagger answers about clips, and {answers.task.label} is of kind {answers.kind.name}.")
        # its weights are never used: it says how wrong an answer is
        self._judges = (
            HeadConfig(answers.kind.head, answers.names, 1, positive_weight=answers.task.positive_weight).build(),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw_seed(self.seed, WEIGHTS))
            fresh = self.config.draw(len(answers.names))
        old, wanted = self.encoder.state_dict(), fresh.state_dict()
        fresh.load_state_dict({name: old[name] if old[name].shape == w.shape else w for name, w in wanted.items()})
        fresh.config.id2label = dict(enumerate(answers.names))
        fresh.config.label2id = {name: number for number, name in enumerate(answers.names)}
        fresh.config.problem_type = self._judges[0].problem
        self.encoder = fresh.train(self.training)
        for name, parameter in self.named_parameters() if self.config.average else ():
            self.register_buffer(_averaged_name(name), parameter.detach().clone())

    def _heads(self) -> list[Head]:
        return list(self._judges)

    def _freeze(self) -> None:
        """Everything trains."""

    def lr_scale(self, name: str) -> float:
        """The same for all."""
        return 1.0

    def train(self, mode: bool = True) -> Tagging:
        """Nothing is frozen."""
        nn.Module.train(self, mode)
        return self

    def forward(self, batch: Batch, step: int) -> Loss:
        """Change the sound, hear it, answer, compare.

        Raises:
            ValueError: crops of another rate or length than the network's.
        """
        rate, window = self.encoder.config.sample_rate, self.encoder.config.window_samples
        if batch.sample_rate != rate or batch.waveform.shape[-1] > window:
            raise ValueError(
                f"The crops have {batch.waveform.shape[-1]} samples at {batch.sample_rate} Hz, the network hears "
                f"{window} at {rate} Hz: set --crops.sample-rate {rate} --crops.crop-samples {window}."
            )
        views = batch.waveform.shape[1]
        (waveform, valid), host = batch.by_view(), batch.on_host()
        host_valid, index = host.by_view()
        keys = [key for key in batch.keys for _ in range(views)]
        partner: Tensor | None = None
        share = torch.ones(len(waveform), device=waveform.device)
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False), section("augment"):
            waveform, semitones = self._changed(waveform, host_valid, index)
            if self.config.mixed == "waveform":
                waveform, partner, share = self._mixed(waveform, index)
        network: Any = self.encoder.network
        padded = F.pad(waveform, (0, window - waveform.shape[1]))
        features = network.features(padded, valid)
        if self.training:
            features = striped(features, network.axes, self.config.stripes, draw_seeds(self.seed, index, STRIPES))
        if self.config.mixed == "spectrogram":
            flat, partner, share = self._mixed(features.flatten(1), index)
            features = flat.view_as(features)
        logits = network.hear(features).logits
        clips = Clips(host.starts.flatten().double() / rate, 1, 1.0, torch.ones_like(host_valid), semitones)
        with section("targets"):
            wanted = [sent(answers.targets(keys, clips), waveform.device) for answers in self.answers]
        return self._judged(logits, wanted[0], partner, share)

    def classifier(self, state: dict[str, Tensor] | None = None) -> AudioClassifier:
        """The network, which answers by its own head; state: of the objective, None for its own as it is now."""
        state = self.published_state(self.state_dict()) if state is None else state
        with torch.random.fork_rng(devices=[]):
            made = make_classifier(self.encoder, [])
        made.encoder.load_state_dict({n.removeprefix("encoder."): v.cpu() for n, v in state.items() if "encoder." in n})
        return made

    @torch.no_grad()
    def validate(self, state: dict[str, Tensor]) -> dict[str, float]:
        """Loss and metric on the validation tracks, heard in the windows that the network's config names."""
        assert self._valid is not None
        model, rate = self.classifier(self.published_state(state)), int(self.encoder.config.sample_rate)
        (answers,), (judge,) = self._valid_answers, self._judges
        once = Clips(torch.zeros(1, dtype=torch.float64), 1, 1.0, torch.ones(1, dtype=torch.int64))
        raw, wanted = [], []
        for row, track in enumerate(self._valid):
            if track.key in answers.labels:
                sound = torch.from_numpy(self._valid.read_all(row, rate, VALID_SECONDS))[None]
                raw.append(model(sound).logits)
                wanted.append(answers.targets([track.key], once))
        if not raw:
            raise ValueError("No validation track has a label, so nothing can be judged: --objective.validate-every 0.")
        loss = float(judge.loss(torch.cat(raw), torch.cat(wanted)))
        metric = judged(answers.kind, raw, wanted)
        score = metric if self.config.judge == "metric" else -loss
        return {"score": score, f"{answers.task.name}/loss": loss, f"{answers.task.name}/metric": metric}

    def _judged(self, logits: Tensor, targets: Tensor, partner: Tensor | None, share: Tensor) -> Loss:
        (judge,), (answers,), (known,) = self._judges, self.answers, self.shares
        each, labelled = judge.losses(logits, targets, answers.task.smoothing)
        if partner is not None:
            other, _ = judge.losses(logits, targets[partner], answers.task.smoothing)
            each = share * each + (1 - share) * other
        value = each.sum() / (max(known, 1e-9) * len(each))
        metrics: dict[str, Tensor | float] = {f"{answers.task.name}/labelled": labelled.detach().mean()}
        if answers.kind.one_of:
            hit = (logits.argmax(-1) == targets).float() * labelled
            metrics[f"{answers.task.name}/accuracy"] = (hit.sum() / labelled.sum().clamp(min=1)).detach()
        return Loss(value, torch.full_like(value, float(len(each))).detach(), metrics)


def striped(features: Tensor, axes: tuple[int, int] | None, config: Stripes, seeds: Tensor) -> Tensor:
    """SpecAugment: features with stripes of 0, each clip by its own seed.

    axes: which dimensions are time and frequency; None (bare samples): left as they are.
    """
    if axes is None or not (config.times or config.bands):
        return features
    kept = torch.ones_like(features)
    wanted = ((axes[0], config.times, config.time_width), (axes[1], config.bands, config.band_width))
    for clip, seed in zip(kept, seeds.tolist(), strict=True):
        draw = torch.Generator().manual_seed(int(seed))
        for axis, stripes, width in wanted:
            total = clip.shape[axis - 1]
            for _ in range(stripes):
                wide = int(torch.randint(0, min(width, total), (1,), generator=draw))
                first = int(torch.randint(0, total - wide, (1,), generator=draw))
                clip.narrow(axis - 1, first, wide).zero_()
    return features * kept


def _recipe(network: str, seconds: float, lr: float, steps: int, batch: int, **more: Any) -> Recipe:
    optim, rate = more.pop("optim", {}), more.get("sample_rate", 16_000)
    samples, phases = more.pop("samples", round(seconds * rate)), more.pop("phases", ())
    return Recipe(
        objective=TaggingConfig(labels=("tags:tags",), network=network, window_samples=samples, **more),
        crops=CropConfig(sample_rate=rate, crop_samples=samples),
        optim=Optim(**{"name": "adam", "lr": lr, **optim}),
        phases=phases,
        steps=steps,
        batch_size=batch,
        log_every=100,
        checkpoint_every=953,
    )


EPOCH = 953  # steps: MagnaTagATune's 15,247 clips, 16 at a time
PUBLISHED = 200 * EPOCH
L2: dict[str, Any] = {"weight_decay": 1e-4, "decay_all": True}
FOUR_PHASES: dict[str, Any] = {
    "optim": L2,
    "phases": tuple(
        Phase(epoch * EPOCH, Optim("sgd", lr, **L2)) for epoch, lr in ((80, 1e-3), (100, 1e-4), (120, 1e-5))
    ),
    "validate_every": EPOCH,
    "judge": "loss",
}
"""Adam, then SGD with Nesterov's momentum at three rates, each from the epoch of the lowest validation loss so far."""


def fcn_mtt() -> Recipe:
    """FCN on MagnaTagATune, 29 s: Adam over 80 epochs, SGD over 120 · one GPU, hours · .9005 / .4295."""
    return _recipe("fcn", 29, 1e-4, PUBLISHED, 16, **FOUR_PHASES)


def musicnn_mtt() -> Recipe:
    """MusiCNN on MagnaTagATune, 3 s: Adam and SGD · one GPU, hours · published .9106 / .4493."""
    return _recipe("musicnn", 3, 1e-4, PUBLISHED, 16, **FOUR_PHASES)


def crnn_mtt() -> Recipe:
    """CRNN on MagnaTagATune, 29 s: Adam and SGD · one GPU, hours · published .8722 / .3625."""
    return _recipe("crnn", 29, 1e-4, PUBLISHED, 16, **FOUR_PHASES)


def sample_mtt() -> Recipe:
    """SampleCNN on MagnaTagATune, 3.69 s: Adam and SGD · one GPU, hours · published .9058 / .4422."""
    return _recipe("sample", 3.69, 1e-4, PUBLISHED, 16, samples=59_049, **FOUR_PHASES)


def se_mtt() -> Recipe:
    """SampleCNN with excitation on MagnaTagATune: Adam and SGD · one GPU · published .9103 / .4520."""
    return _recipe("se", 3.69, 1e-4, PUBLISHED, 16, samples=59_049, **FOUR_PHASES)


def attention_mtt() -> Recipe:
    """CNN with self-attention on MagnaTagATune, 15 s: Adam and SGD · one GPU · .9077 / .4445."""
    return _recipe("attention", 15, 1e-4, PUBLISHED, 16, **FOUR_PHASES)


def hcnn_mtt() -> Recipe:
    """Harmonic CNN on MagnaTagATune, 5 s: Adam and SGD · one GPU, hours · published .9127 / .4611."""
    return _recipe("hcnn", 5, 1e-4, PUBLISHED, 16, **FOUR_PHASES)


def short_mtt() -> Recipe:
    """Short-chunk CNN on MagnaTagATune, 3.69 s: Adam and SGD · one GPU · published .9126 / .4590."""
    return _recipe("short", 3.69, 1e-4, PUBLISHED, 16, samples=59_049, **FOUR_PHASES)


def short_res_mtt() -> Recipe:
    """Short-chunk CNN with residuals on MagnaTagATune: Adam and SGD · one GPU · .9129 / .4614."""
    return _recipe("short_res", 3.69, 1e-4, PUBLISHED, 16, samples=59_049, **FOUR_PHASES)


def mtt_msd() -> Recipe:
    """Music Tagging Transformer (teacher) on the Million Song Dataset, 10 s, CLMR's chain: Adam 1e-4, no schedule."""
    return _recipe("mtt", 10, 1e-4, 200 * 5110, 32, sample_rate=22_050, augment="clmr")


def cnn14_audioset() -> Recipe:
    """PANNs' CNN14 on AudioSet: balanced, mixup and SpecAugment on the log-mel · published mAP .431."""
    return _recipe(
        "Cnn14", 10, 1e-3, 600_000, 32, sample_rate=32_000, balance=True, mixed="spectrogram",
        mixup=Mixup(1.0, 1.0), stripes=Stripes(2, 64, 2, 8),
    )  # fmt: skip


def ast_audioset() -> Recipe:
    """AST on AudioSet's two million clips: Adam 1e-5 after 1,000 steps, mixup of waveforms, wide masks · mAP .459."""
    return _recipe(
        "ast", 10, 1e-5, 806_000, 12, balance=True, mixup=Mixup(0.5, 10.0), stripes=Stripes(1, 192, 1, 48),
        optim={"betas": (0.95, 0.999), "weight_decay": 5e-7, "warmup_steps": 1000},
    )  # fmt: skip


def htsat_audioset() -> Recipe:
    """HTS-AT on AudioSet: AdamW 1e-4, decay .05, balanced, SpecAugment · published mAP .453 from scratch."""
    return _recipe(
        "htsat", 10, 1e-4, 1_500_000, 128, sample_rate=32_000, balance=True, mixed="spectrogram", mixup=Mixup(1.0, 0.5),
        stripes=Stripes(2, 64, 2, 8), optim={"name": "adamw", "weight_decay": 0.05, "clip": 1.0},
    )  # fmt: skip


def _tiny(network: str, width: float, **more: Any) -> Recipe:
    samples = more.pop("samples", 48_000)
    return Recipe(
        objective=TaggingConfig(labels=("genre",), network=network, width=width, window_samples=samples, **more),
        crops=CropConfig(sample_rate=16_000, crop_samples=samples),
        optim=Optim(name="adamw", lr=1e-3, weight_decay=0.01, warmup_steps=20, decay="cosine", clip=1.0),
        steps=150,
        batch_size=16,
        log_every=10,
        checkpoint_every=75,
    )


def fcn_tiny() -> Recipe:
    """FCN a quarter as wide on 3 s · two CPU cores, minutes."""
    return _tiny("fcn", 0.25)


def musicnn_tiny() -> Recipe:
    """MusiCNN a quarter as wide on 3 s · two CPU cores, minutes."""
    return _tiny("musicnn", 0.25)


def crnn_tiny() -> Recipe:
    """CRNN a quarter as wide on 3 s · two CPU cores, minutes."""
    return _tiny("crnn", 0.25)


def sample_tiny() -> Recipe:
    """SampleCNN a quarter as wide on 3.69 s · two CPU cores, minutes."""
    return _tiny("sample", 0.25, samples=59_049)


def attention_tiny() -> Recipe:
    """CNN with self-attention, an eighth as wide, on 3 s · two CPU cores, minutes."""
    return _tiny("attention", 0.125)


def hcnn_tiny() -> Recipe:
    """Harmonic CNN an eighth as wide on 5 s · two CPU cores, minutes."""
    return _tiny("hcnn", 0.125, samples=80_000)


def short_tiny() -> Recipe:
    """Short-chunk CNN an eighth as wide on 3.69 s · two CPU cores, minutes."""
    return _tiny("short", 0.125, samples=59_049)


def mtt_tiny() -> Recipe:
    """Music Tagging Transformer an eighth as wide on 3 s · two CPU cores, minutes."""
    return _tiny("mtt", 0.125)


def cnn6_tiny() -> Recipe:
    """PANNs' CNN6 an eighth as wide on 3 s, with its mixup and SpecAugment · two CPU cores, minutes."""
    return _tiny("Cnn6", 0.125, mixed="spectrogram", mixup=Mixup(1.0, 1.0), stripes=Stripes(2, 32, 2, 8))


def ast_tiny() -> Recipe:
    """AST of two blocks of 64 on 3 s · two CPU cores, minutes."""
    return _tiny("ast", 1 / 12, depth=2, stripes=Stripes(1, 48, 1, 24))


def htsat_tiny() -> Recipe:
    """HTS-AT a quarter as wide on 3 s, which are stretched to its 1,024 spectra · two CPU cores, minutes."""
    return _tiny("htsat", 0.25, stripes=Stripes(2, 32, 2, 8))
