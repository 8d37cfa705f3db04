"""Codes of a neural codec (EnCodec in MERT-v1; DAC): computed on the fly by a frozen model, or read from a store.

`groundbass data codes MANIFEST OUT --codec NAME` fills the store. A crop's codes are found by its track's key and its
start, which has to be a multiple of the codec's hop (`crops.align`). Codes on the fly know no sound outside the crop,
so they differ from stored ones near the crop's edges: with EnCodec's causal convolutions and LSTM at the left edge
mainly. The test's small random EnCodec agrees in over 98 % of the first codebook's codes from 25 frames inwards.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro
from einops import rearrange
from torch import Tensor
from transformers import AutoConfig, DacConfig, DacModel, EncodecConfig, EncodecModel

from ...data.draws import sent
from ...data.locks import alone
from ...data.open import open_sound
from ...data.parallel import Part
from ...data.track import Manifest, Track
from ...data.writing import write_text, written
from ...models.encoder import usual_device
from ...progress import tqdm
from ...reading import json_of
from .codes import CodeHead, CodeHeadSettings
from .target import NOISE, FrameGrid, Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTEXT_SECONDS = 2.0
"""Sound on both sides of a chunk that is encoded with it and dropped, so that chunks join without a seam."""
CHUNK_SECONDS = 30.0
CHUNKS_AT_ONCE = (1, 8)
"""On a CPU and on a GPU."""
TRACKS_PER_PART = 64


@dataclass(frozen=True)
class CodecSettings:
    """The codec target of a recipe."""

    weight: float = 0.0
    """Weight of the summed cross entropy; 0 turns the target off."""
    name: str = "facebook/encodec_24khz"
    """Hub name or folder of an EnCodec or DAC model in Transformers' form."""
    codebooks: int = 8
    codebook_size: int = 1024
    store: str | None = None
    """Folder that `groundbass data codes` filled; None: codes on the fly."""
    head: CodeHeadSettings = field(default_factory=CodeHeadSettings)

    def stand_in(self, folder: Path, grid: FrameGrid, crop_samples: int) -> tuple[CodecSettings, str]:
        """A codec of random weights for one that isn't here, or a store of random codes of the track `NOISE`."""
        if self.store is not None:
            shape = math.ceil(crop_samples / grid.hop), self.codebooks
            codes = np.random.default_rng(0).integers(self.codebook_size, size=shape, dtype=np.uint16)
            identity = CodecIdentity(NOISE.key, "", grid.sample_rate, grid.hop, self.codebooks, self.codebook_size)
            (folder / "codec.json").write_text(json.dumps(asdict(identity)), encoding="utf-8")
            CodeStore(folder).write_part([NOISE], [codes])
            return replace(self, name=NOISE.key, store=str(folder)), ""
        if Path(self.name).is_dir():
            return self, ""
        dac = "dac" in self.name
        model: Any = DacModel(DacConfig()) if dac else EncodecModel(EncodecConfig())  # at 16 kHz, at 24 kHz
        model.save_pretrained(folder)
        said = f"{'DAC' if dac else 'EnCodec'} of Transformers' default shape with random weights stands in for "
        return replace(self, name=str(folder)), f"{said}{self.name}."

    def cautions(self) -> list[str]:
        """What to do first, where the codec would run in every step."""
        if self.store is not None:
            return []
        return [
            f"{self.name} runs in every step, on every crop anew: `groundbass data codes MANIFEST CODES --codec "
            f"{self.name}` stores its codes once, and --objective.codec.store CODES reads them."
        ]

    def build(self, grid: FrameGrid, dim: int) -> CodecTarget:
        """Build the target for an encoder's frame grid and width; the codec itself is loaded by `prepare`."""
        return CodecTarget(self, grid, dim)


@dataclass(frozen=True)
class CodecIdentity:
    """Which codec made codes, and how they count."""

    name: str
    hash: str
    """blake2b of configuration and weights: folders move and names are reused."""
    sample_rate: int
    hop: int
    codebooks: int
    codebook_size: int


@contextmanager
def whole_float32() -> Iterator[None]:
    """No TF32 inside: it changes up to 1 % of a codec's codes."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


class Codec:
    """A frozen codec's encoder half, EnCodec or DAC alike.

    Args:
        name: Hub name or local folder.
        codebooks: how many of its codebooks are used.

    Raises:
        ValueError: the model is no mono EnCodec or DAC, or has fewer codebooks.

    """

    def __init__(self, name: str, codebooks: int) -> None:
        try:
            config = AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:  # transformers speaks of config.json and model_type
            raise ValueError(
                f"{name} is no codec that can be read ({type(error).__name__}): name a folder or Hub model of EnCodec "
                "or DAC in Transformers' form, such as facebook/encodec_24khz."
            ) from error
        kinds: dict[str, Any] = {"encodec": EncodecModel, "dac": DacModel}
        if config.model_type not in kinds:
            raise ValueError(f"{name} is a {config.model_type!r} model, no codec that is known: use EnCodec or DAC.")
        if getattr(config, "audio_channels", 1) != 1 or getattr(config, "chunk_length_s", None):
            raise ValueError(f"{name} encodes stereo or normalised chunks; only mono codecs give one code per frame.")
        self.kind, self.codebooks = config.model_type, codebooks
        model: PreTrainedModel = kinds[config.model_type].from_pretrained(name)
        self.model = model.eval().requires_grad_(False)
        quantizer: Any = model.quantizer
        have: int = quantizer.num_quantizers if self.kind == "encodec" else config.n_codebooks
        if have < codebooks:
            raise ValueError(
                f"{name} has {have} codebooks, fewer than the {codebooks} asked for: lower codec.codebooks."
            )
        self.bandwidth = self._bandwidth() if self.kind == "encodec" else None
        hop = math.prod(config.upsampling_ratios) if self.kind == "encodec" else config.hop_length
        self.identity = CodecIdentity(
            name, _hash(model), int(config.sampling_rate), int(hop), codebooks, int(config.codebook_size)
        )

    def _bandwidth(self) -> float:
        """EnCodec's smallest bandwidth with enough codebooks, kbps."""
        quantizer: Any = self.model.quantizer
        enough = [
            width
            for width in sorted(self.model.config.target_bandwidths)
            if quantizer.get_num_quantizers_for_bandwidth(width) >= self.codebooks
        ]
        return float(enough[0])

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """Encode waveform [batch, samples] at the codec's rate: int64 [batch, frames, codebooks], float32 inside."""
        model: Any = self.model
        with torch.autocast(waveform.device.type, enabled=False), whole_float32():
            sound = waveform.float()[:, None]
            if self.kind == "encodec":
                codes = model.encode(sound, bandwidth=self.bandwidth).audio_codes[0]
            else:
                codes = model.encode(sound, n_quantizers=self.codebooks).audio_codes
        found: Tensor = rearrange(codes[:, : self.codebooks], "batch codebooks frames -> batch frames codebooks").long()
        return found

    def place(self, device: torch.device) -> None:
        """Move the codec; EnCodec's numbers for padding, which Python reads at every convolution, stay on the CPU."""
        read = [
            (module, name, buffer)
            for module in self.model.modules()
            for name, buffer in module.named_buffers(recurse=False)
            if name in ("stride", "kernel_size", "padding_total")
        ]
        self.model.to(device)
        for module, name, buffer in read:
            setattr(module, name, buffer)

    def encode_track(self, waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
        """Encode a track [samples] in chunks with context: [ceil(samples / hop), codebooks]; float32, as `encode`.

        Chunks of one length go through a GPU together; a CPU takes one after the other, which stay in its cache.
        """
        hop, rate = self.identity.hop, self.identity.sample_rate
        chunk, context = (round(seconds * rate / hop) for seconds in (CHUNK_SECONDS, CONTEXT_SECONDS))
        total = math.ceil(len(waveform) / hop)
        sound = torch.from_numpy(waveform).to(next(self.model.parameters()).device)
        parts = []
        for group in self._together(len(waveform), chunk, context):
            heard = torch.stack([sound[begin * hop : (first + chunk + context) * hop] for begin, first in group])
            for (begin, first), codes in zip(group, self.encode(heard), strict=True):
                wanted = min(chunk, total - first)
                kept = codes[first - begin : first - begin + wanted]
                if len(kept) < wanted:  # a codec that drops an incomplete last frame
                    kept = torch.cat([kept, kept[-1:].expand(wanted - len(kept), -1)])
                parts.append(kept.cpu().numpy().astype(np.uint16))
        return np.concatenate(parts) if parts else np.zeros((0, self.codebooks), np.uint16)

    def _together(self, samples: int, chunk: int, context: int) -> Iterator[list[tuple[int, int]]]:
        """The chunks of a track in groups of one length each: the frames where their sound and their codes begin."""
        hop, at_once = self.identity.hop, CHUNKS_AT_ONCE[next(self.model.parameters()).device.type == "cuda"]
        begun = [(max(0, first - context), first) for first in range(0, math.ceil(samples / hop), chunk)]

        def length(place: tuple[int, int]) -> int:
            return min((place[1] + chunk + context) * hop, samples) - place[0] * hop

        for _, alike in itertools.groupby(begun, key=length):
            row = list(alike)
            yield from (row[at : at + at_once] for at in range(0, len(row), at_once))


def _hash(model: PreTrainedModel) -> str:
    digest = hashlib.blake2b(model.config.model_type.encode(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class CodeStore:
    """Codes of whole tracks in a folder: codec.json, and parts `part_N.npy` (uint16 [frames, codebooks]) with an index.

    Raises:
        ValueError: the folder holds no codes.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "codec.json"
        if not file.is_file():
            raise ValueError(
                f"There are no codes in {folder}: store them with `groundbass data codes MANIFEST OUT --codec NAME`."
            )
        self.identity = CodecIdentity(**json_of(file))
        self._place: dict[str, tuple[int, int, int]] = {}
        self.hashes: dict[str, str] = {}
        self.parts = 0
        for index in sorted(folder.glob("part_*.parquet")):
            number = int(index.stem.split("_")[1])
            self.parts = max(self.parts, number + 1)
            rows = pq.read_table(index).to_pydict()
            columns = (rows["key"], rows["hash"], rows["begin"], rows["frames"])
            for key, content, begin, frames in zip(*columns, strict=True):
                self._place[key] = (number, begin, frames)
                self.hashes[key] = content
        self._open = lru_cache(maxsize=256)(self._map)

    def _map(self, number: int) -> npt.NDArray[np.uint16]:
        codes: npt.NDArray[np.uint16] = np.load(self.folder / f"part_{number:06d}.npy", mmap_mode="r")
        return codes

    def read(self, key: str, start: int, frames: int) -> npt.NDArray[np.int64]:
        """Read a crop's codes [frames, codebooks]; beyond the track's end (padding) they are 0.

        Args:
            key: of the track.
            start: sample in the track, a multiple of the hop.
            frames: how many.

        Raises:
            ValueError: the track has no codes, or the start lies between two codes.

        """
        if key not in self._place:
            raise ValueError(
                f"{self.folder} has no codes for the track {key!r}: store them with `groundbass data codes` for this "
                "manifest (it goes on where it stopped)."
            )
        if start % self.identity.hop:
            raise ValueError(
                f"A crop of {key!r} starts at sample {start}, between two codes of {self.identity.hop} samples: set "
                f"crops.align to {self.identity.hop}."
            )
        number, begin, count = self._place[key]
        first = start // self.identity.hop
        found = self._open(number)[begin + min(first, count) : begin + min(first + frames, count)]
        codes = np.zeros((frames, found.shape[1]), np.int64)
        codes[: len(found)] = found
        return codes

    def write_part(self, tracks: list[Track], codes: list[npt.NDArray[np.uint16]]) -> None:
        """Add a part; the index comes last, so a part without one counts as absent."""
        stem = self.folder / f"part_{self.parts:06d}"
        lengths = [len(entry) for entry in codes]
        begins = np.cumsum([0, *lengths[:-1]]).tolist()
        with written(stem.with_suffix(".npy"), locked=True) as beside, beside.open("wb") as file:
            np.save(file, np.concatenate(codes))
        rows = {
            "key": [track.key for track in tracks],
            "hash": [track.hash for track in tracks],
            "begin": pa.array(begins, pa.int64()),
            "frames": pa.array(lengths, pa.int64()),
        }
        with written(stem.with_suffix(".parquet"), locked=True) as beside:
            pq.write_table(pa.table(rows), beside)
        self.parts += 1


class CodecTarget(Target):
    """Predict a codec's codes."""

    def __init__(self, settings: CodecSettings, grid: FrameGrid, dim: int) -> None:
        super().__init__()
        self.name, self.weight, self.settings, self.grid = "codec", settings.weight, settings, grid
        self._teacher: tuple[Codec | CodeStore, ...] = ()  # in a tuple, out of parameters and state_dict
        self.head = CodeHead(dim, (settings.codebook_size,) * settings.codebooks, settings.head, self.name)

    def teacher(self) -> Codec | CodeStore:
        """Return the codec, or the store of its codes; loaded and checked on first use.

        Raises:
            ValueError: it counts time or codes differently than the recipe, or the codes are another codec's.

        """
        if not self._teacher:
            settings = self.settings
            if settings.store is None:
                found: Codec | CodeStore = Codec(settings.name, settings.codebooks)
            else:
                found = CodeStore(Path(settings.store))
                _check_codec(found, settings)
            self._check_shape(found.identity)
            self._teacher = (found,)
        return self._teacher[0]

    def _check_shape(self, identity: CodecIdentity) -> None:
        if identity.sample_rate != self.grid.sample_rate:
            raise ValueError(
                f"The codec {identity.name} works at {identity.sample_rate} Hz, the encoder at "
                f"{self.grid.sample_rate} Hz: use a codec of the encoder's rate, or another encoder.sample_rate."
            )
        if identity.hop != self.grid.hop:
            raise ValueError(
                f"The codec {identity.name} has a code every {identity.hop} samples, the encoder a frame every "
                f"{self.grid.hop}: frames and codes have to count time alike."
            )
        if identity.codebooks < self.settings.codebooks or identity.codebook_size != self.settings.codebook_size:
            raise ValueError(
                f"The codes of {identity.name} are {identity.codebooks} × {identity.codebook_size}, the recipe asks "
                f"for {self.settings.codebooks} × {self.settings.codebook_size}: change them in codec."
            )

    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Load the codec, or check that the store has the codes of every track as it is now."""
        teacher = self.teacher()
        if isinstance(teacher, Codec):
            return
        for track in manifest:
            if teacher.hashes.get(track.key) != track.hash:
                what = "no codes for" if track.key not in teacher.hashes else "codes of other audio than now for"
                raise ValueError(
                    f"{teacher.folder} has {what} the track {track.key!r}: store them with `groundbass data codes` for "
                    "this manifest (it goes on where it stopped)."
                )

    def prepare_for_counting(self) -> None:
        """Load the codec."""
        self.teacher()

    def targets(self, waveform: Tensor, starts: Tensor, keys: list[str]) -> Tensor:
        """Compute or read codes int64 [batch, frames, codebooks]; a store knows the codes around the crop."""
        teacher = self.teacher()
        if isinstance(teacher, Codec):
            return teacher.encode(waveform)
        frames = waveform.shape[1] // self.grid.hop
        rows = [teacher.read(key, start, frames) for key, start in zip(keys, starts.tolist(), strict=True)]
        return sent(torch.from_numpy(np.stack(rows))[..., : self.settings.codebooks], waveform.device)

    def place(self, device: torch.device) -> None:
        """Move the codec."""
        teacher = self.teacher()
        if isinstance(teacher, Codec):
            teacher.place(device)

    def provenance(self) -> dict[str, Any]:
        """Identity of the codec."""
        return {"codec": asdict(self.teacher().identity)}


def _check_codec(store: CodeStore, settings: CodecSettings) -> None:
    """Refuse codes of another codec: by name, and by hash where the codec lies in a local folder."""
    same = Path(settings.name).is_dir() or store.identity.name == settings.name
    if same and Path(settings.name).is_dir():
        same = Codec(settings.name, settings.codebooks).identity.hash == store.identity.hash
    if not same:
        raise ValueError(
            f"The codes in {store.folder} were made by {store.identity.name} (hash {store.identity.hash}), not by "
            f"{settings.name}: store codes of that codec in another folder, or set codec.name."
        )


def codes(
    manifest: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    *,
    codec: str = "facebook/encodec_24khz",
    codebooks: int = 8,
    device: str | None = None,
    part: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None,
) -> dict[str, Any]:
    """Store a codec's codes of every track, for the `codec` target; started again, it goes on where it stopped.

    Args:
        manifest: what to encode, as `groundbass pretrain --data` takes it.
        out: folder of the store.
        codec: Hub name or local folder of an EnCodec or DAC model in Transformers' form.
        codebooks: codebooks to keep.
        device: cpu, cuda, cuda:1; a GPU where there is one.
        part: encode a share of the tracks only, for job arrays that fill a new folder; nothing has to be joined.
    """
    model = Codec(codec, codebooks)
    tracks = open_sound(manifest)
    tracks.check_rate(model.identity.sample_rate)
    model.place(torch.device(usual_device(device)))
    share = Part.of(part)
    with alone(out / (".lock" if share is None else f".lock-{share}"), str(out)):
        new = _store_codes(tracks, out, model, share)
    return {"out": out, "tracks": len(tracks), "new": new, "codec": model.identity}


def _store_codes(tracks: Manifest, out: Path, model: Codec, share: Part | None = None) -> int:
    """Encode what is missing, of a share or of all; how many tracks that were."""
    codec, codebooks = model.identity.name, model.codebooks
    file = out / "codec.json"
    if not file.exists():
        write_text(file, json.dumps(asdict(model.identity), indent=1) + "\n", locked=True)
    store = CodeStore(out)
    if (store.identity.hash, store.identity.codebooks) != (model.identity.hash, codebooks):
        raise ValueError(
            f"{out} holds {store.identity.codebooks} codebooks of {store.identity.name} (hash {store.identity.hash}), "
            f"not {codebooks} of {codec} (hash {model.identity.hash}): choose another folder."
        )
    known = store.hashes
    missing = [row for row, track in enumerate(tracks) if not track.hash or known.get(track.key) != track.hash]
    groups = _groups(missing, store.parts) if share is None else _shares(tracks, missing, store, share)
    missing = [row for group in groups.values() for row in group]
    with tqdm(total=len(missing), desc="codes", unit="track") as bar:
        for number, group in groups.items():
            found = []
            for row in group:
                found.append(model.encode_track(tracks.read(row, model.identity.sample_rate)))
                bar.update()
            store.parts = number
            store.write_part([tracks[row] for row in group], found)
    print(f"{out}: codes of {len(tracks)} tracks, {len(missing)} of them new.")
    return len(missing)


def _groups(rows: list[int], first: int) -> dict[int, list[int]]:
    """Rows by the number of the part that they go into."""
    parts = range(0, len(rows), TRACKS_PER_PART)
    return {first + number: rows[begin : begin + TRACKS_PER_PART] for number, begin in enumerate(parts)}


def _shares(tracks: Manifest, missing: list[int], store: CodeStore, share: Part) -> dict[int, list[int]]:
    """The share's part of what one job alone would write into an empty folder, without what is there.

    Raises:
        ValueError: the folder was begun with other tracks, whose parts have the same numbers.
    """
    groups = _groups(list(range(len(tracks))), 0)
    for number, group in groups.items():
        index = store.folder / f"part_{number:06d}.parquet"
        keys = [tracks[row].key for row in group]
        if index.is_file() and pq.read_table(index, columns=["key"])["key"].to_pylist() != keys:
            raise ValueError(
                f"{store.folder} was begun with other tracks: fill a new folder part by part, or all at once."
            )
    wanted = set(missing)
    return {number: groups[number] for number in share.rows(len(groups)) if wanted & set(groups[number])}
