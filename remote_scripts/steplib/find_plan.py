"""The inputs of a case, and which of them is the RT Ion Plan: told by content, never by name or position.

SOP classes: DICOM PS3.4 B.5. The files lie as <input-dir>/000001 …; inputs.json says what was sent.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, Optional, Sequence

from .dicom import Item
from .parameters import read_object
from .report import BadInput

if TYPE_CHECKING:
    from pydicom import Dataset

RT_ION_PLAN = "1.2.840.10008.5.1.4.1.1.481.8"
RT_PLAN = "1.2.840.10008.5.1.4.1.1.481.5"

_DICOMDIR = "1.2.840.10008.1.3.10"
_DAMAGED = "damaged"


@dataclass(frozen=True)
class Input:
    """One file of the case: its number (also its name on the host), size in bytes, SHA-256 as hex, and its path in
    the case (with `/`; it may hold patient data, and is for finding what belongs together only)."""

    number: str
    size: int
    sha256: str
    path: str = ""


@dataclass(frozen=True)
class FoundPlan:
    """The RT Ion Plan, read completely, and the input it came from. `classes`: the SOP class of every input by its
    number; None for what is no DICOM file."""

    dataset: Dataset
    source: Input
    classes: Mapping[str, Optional[str]]


def read_inputs(path: Path) -> List[Input]:
    """The entries of inputs.json: {"inputs": [{"n": "000001", "path", "size", "sha256"}]}."""
    entries = read_object(path, "The list of inputs").get("inputs")
    if not isinstance(entries, list) or not entries:
        raise BadInput("The list of inputs names no file.")
    inputs = []
    for entry in entries:
        number, size, digest = (
            entry.get(key) if isinstance(entry, dict) else None for key in ("n", "size", "sha256")
        )
        if not (
            isinstance(number, str)
            and re.fullmatch(r"[0-9]{1,12}", number)
            and type(size) is int
            and isinstance(digest, str)
            and re.fullmatch(r"[0-9a-f]{64}", digest)
        ):
            raise BadInput("The list of inputs has an entry without number, size or SHA-256.")
        name = entry.get("path", "")
        if not isinstance(name, str):
            raise BadInput("The list of inputs has an entry whose path is no text.")
        inputs.append(Input(number, size, digest, name))
    return inputs


def find_plan(inputs: Sequence[Input], folder: Path, progress: Callable[[float, str], None]) -> FoundPlan:
    """Reads the one RT Ion Plan among the inputs. BadInput: there is none, more than one, a damaged one."""
    _silence_pydicom()
    classes: Dict[str, Optional[str]] = {}
    for done, each in enumerate(inputs):
        progress(0.5 * done / len(inputs), "looking for the RT Ion Plan")
        classes[each.number] = _sop_class(_path(folder, each))
    ion = [each for each in inputs if classes[each.number] == RT_ION_PLAN]
    damaged = [each.number for each in inputs if classes[each.number] == _DAMAGED]
    if damaged:
        raise BadInput(f"Input {damaged[0]} is a damaged DICOM file.")
    if len(ion) > 1:
        raise BadInput(
            f"The case holds {len(ion)} RT Ion Plans (inputs {', '.join(each.number for each in ion)}), and "
            "which one was delivered cannot be known: leave exactly one."
        )
    if not ion:
        photon = [number for number, sop_class in classes.items() if sop_class == RT_PLAN]
        if photon:
            raise BadInput(f"The case holds a photon RT Plan (input {photon[0]}) and no RT Ion Plan.")
        raise BadInput(f"None of the {len(inputs)} inputs is an RT Ion Plan.")
    content = read_input(folder, ion[0])
    return FoundPlan(
        read_dicom(content, f"The RT Ion Plan (input {ion[0].number})", "RTPLAN"), ion[0], classes
    )


def read_input(folder: Path, each: Input) -> bytes:
    """The content of an input. BadInput when it is not the file that was sent."""
    content = _path(folder, each).read_bytes()
    if hashlib.sha256(content).hexdigest() != each.sha256:
        raise BadInput(f"Input {each.number} is not the file that was sent: its SHA-256 differs.")
    return content


def _path(folder: Path, each: Input) -> Path:
    path = folder / each.number
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise BadInput(f"Input {each.number} is missing on this host.") from None
    if size != each.size:
        raise BadInput(
            f"Input {each.number} has {size} bytes on this host and {each.size} in the list of inputs."
        )
    return path


def _sop_class(path: Path) -> Optional[str]:
    """The file's SOP class; None: no DICOM file; "damaged": it begins as one and cannot be read."""
    from pydicom import dcmread
    from pydicom.uid import UID

    with path.open("rb") as stream:
        head = stream.read(132)
    part10 = head[128:132] == b"DICM"
    # Old exports leave the preamble out and begin with group 0008, little endian.
    if not part10 and head[:2] != b"\x08\x00":
        return None
    # From memory: of a file, a damaged length would make Python set aside as many bytes as it says before it reads.
    content = io.BytesIO(path.read_bytes())
    try:
        dataset = dcmread(content, force=not part10, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        meta, own = dataset.file_meta.get("MediaStorageSOPClassUID"), dataset.get("SOPClassUID")
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever pydicom trips over, the answer is the same
        return _DAMAGED if part10 else None
    # PS3.10 has the class in both places (a DICOMDIR in one): where they differ, a damaged byte has hidden what the
    # file is, and a delivery record that is passed over would look like a beam that was not delivered.
    if part10 and own != meta and not (own is None and meta == _DICOMDIR):
        return _DAMAGED
    found = own or meta
    if not found or not UID(str(found)).is_valid:
        return _DAMAGED if part10 else None
    return str(found)


def read_dicom(content: bytes, where: str, modality: str) -> Dataset:
    """The whole data set. BadInput, beginning with `where`: it ends early, cannot be parsed, is something else."""
    from pydicom import dcmread

    damaged = BadInput(f"{where} is damaged: it ends early or cannot be parsed.")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            dataset = dcmread(io.BytesIO(content), force=True)
            # pydicom keeps a value that the end of the file has cut short.
            cut = any(_is_short(dataset, tag) for tag in dataset.keys())  # noqa: SIM118 - iterating converts
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001
        raise damaged from None
    if cut or any("end of file" in str(each.message).lower() for each in told):
        raise damaged
    item = Item(dataset, where if modality != "RTPLAN" else "The RT Ion Plan")
    if item.text("Modality") != modality:
        raise item.problem("Modality", f"does not say {modality} as")
    return dataset


def _is_short(dataset: Dataset, tag: object) -> bool:
    raw = dataset.get_item(tag)  # type: ignore[call-overload]
    length, value = getattr(raw, "length", None), getattr(raw, "value", None)
    return (
        isinstance(value, bytes) and isinstance(length, int) and length != 0xFFFFFFFF and len(value) < length
    )


def _silence_pydicom() -> None:
    """pydicom logs and warns of values that it finds odd, at any time it converts one, and quotes them."""
    warnings.simplefilter("ignore")
    logger = logging.getLogger("pydicom")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    logger.setLevel(logging.CRITICAL + 1)
