"""Sharded checkpoints are opened by DeepSpeed and PyTorch, which unpickle: what their pickles name is looked at first.

DeepSpeed reads its `.pt` files, and PyTorch the `.metadata` of its distributed checkpoints, with the whole of Python's
pickle. What they write names tensors, their layout and a few settings; a pickle that names anything else isn't opened.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

from ...models.weight_files import DAMAGED, CodeError, Inert

NAMED = re.compile(
    r"collections\.(OrderedDict|defaultdict|deque)|(builtins|__builtin__)\.(set|frozenset|slice|complex|bytearray)"
    r"|_codecs\.encode|pathlib\.(_local\.)?(Posix|Pure|PurePosix)?Path"
    r"|torch\.(Size|device|\w+Storage|(float|bfloat|u?int|complex)\d+|bool|contiguous_format|strided)"
    r"|torch\._utils\._rebuild_(tensor_v2|parameter)|torch\.nn\.parameter\.Parameter|torch\.Tensor"
    r"|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.storage\.(TypedStorage|UntypedStorage)|torch\.serialization\._get_layout"
    r"|torch\.distributed\.checkpoint\.metadata\.((Tensor|Bytes|Chunk)StorageMetadata|Metadata|MetadataIndex|StorageMeta"
    r"|TensorProperties|_MEM_FORMAT_ENCODING)|torch\.distributed\.checkpoint\.filesystem\._StorageInfo"
    r"|deepspeed\.runtime\.(zero\.config\.ZeroStageEnum|fp16\.loss_scaler\.\w*LossScaler)"
    r"|deepspeed\.utils\.tensor_fragment\.\w*(fragment_address|tensor_fragment)"
)


class _Names(pickle.Unpickler):
    """Goes through a pickle, builds nothing of what it names, and stops at what isn't in `NAMED`."""

    def find_class(self, module: str, name: str) -> Any:
        """Answer with a stand-in."""
        if not NAMED.fullmatch(f"{module}.{name}"):
            raise CodeError(f"{module}.{name}")
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        """A tensor's numbers, which lie elsewhere in the file."""
        return Inert()


def refuse_code(folder: Path) -> None:
    """Refuse a sharded checkpoint whose pickles name anything but tensors, their layout and settings.

    Raises:
        ValueError: the sentence names the file, and what it names.
    """
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.name != ".metadata" and file.suffix not in (".pt", ".bin"):
            continue  # weights-only readers open the others
        try:
            for content in _pickles(file):
                _Names(io.BytesIO(content)).load()
        except CodeError as error:
            raise ValueError(
                f"{file} isn't loaded: it names {error}, and opening it could run code. Take a checkpoint from a place "
                "that you trust, or begin a new run from the encoder with --init."
            ) from None
        except (*DAMAGED, zipfile.BadZipFile, OverflowError, MemoryError) as error:
            raise ValueError(
                f"{file} is damaged ({error}); delete this checkpoint to go on from the one before it."
            ) from error


def _pickles(file: Path) -> list[bytes]:
    """The pickles in a file: itself, or those in a torch file."""
    if file.name == ".metadata":
        return [file.read_bytes()]
    with file.open("rb") as opened:
        if opened.read(4) != b"PK\x03\x04":  # what torch itself goes by; of old its files were bare pickles
            raise ValueError("It is no torch file")
    with zipfile.ZipFile(file) as archive:
        # entries, since a name may stand twice; torch finds them in either case
        return [archive.read(entry) for entry in archive.infolist() if entry.filename.lower().endswith("data.pkl")]
