"""What jobs left: the verbs `outputs`, `get` and `log`."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Optional, Union

from agent import names
from agent.files import CHUNK, read_json_object
from agent.frames import encode, write_bytes_header, write_frame
from agent.problems import Refused
from agent.work import JobPaths, Work

_MOST_LOG = 1 << 20
_LONGEST_CHARACTER = 4  # bytes; a shorter piece might hold none, for ever


def outputs(work: Work, job_keys: List[str]) -> Dict[str, Any]:
    """Job key -> its exit and the files that it left; None for a job that has not ended."""
    table: Dict[str, Any] = {}
    for key in job_keys:
        paths = work.job(key)
        exit_ = read_json_object(paths.exit)
        table[key] = None if exit_ is None else {"exit": exit_, "files": _files(paths)}
    return table


def _files(paths: JobPaths) -> List[Dict[str, Any]]:
    listed = read_json_object(paths.outputs) if paths.out.is_dir() else None
    return [] if listed is None else list(listed["files"])


class Wanted:
    """One file of a `get`: `size` bytes with this digest, of which the client has the first `offset`."""

    def __init__(self, raw: Any) -> None:
        if not isinstance(raw, dict):
            raise Refused("bad_request", "a file is not an object")
        self.job_key = names.job_key(raw.get("job_key"))
        self.path = names.relative_path(raw.get("path"))
        self.sha256 = names.digest(raw.get("sha256"))
        self.size = names.whole(raw.get("size"), "size")
        self.offset = names.whole(raw.get("offset", 0), "offset", 0, self.size)


def send(work: Work, wanted: List[Wanted], stream: BinaryIO) -> None:
    """Streams the files: {"index"} and the bytes from `offset`, or {"index", "error"} and no bytes.

    A file that becomes shorter meanwhile ends the stream: the client then has less than was promised.
    """
    buffer = memoryview(bytearray(CHUNK))
    listed: Dict[str, Dict[str, Any]] = {}
    for index, one in enumerate(wanted):
        paths = work.job(one.job_key)
        if one.job_key not in listed:
            listed[one.job_key] = {entry["path"]: entry for entry in _files(paths)}
        source = _open(paths.out, one, listed[one.job_key].get(one.path))
        if isinstance(source, str):
            write_frame(stream, "J", encode({"index": index, "error": source}))
            continue
        with source:
            write_frame(stream, "J", encode({"index": index}))
            write_bytes_header(stream, one.size - one.offset)
            source.seek(one.offset)
            left = one.size - one.offset
            while left:
                count = source.readinto(buffer[: min(left, CHUNK)])
                if not count:
                    raise OSError("an output became shorter while it was sent")
                stream.write(buffer[:count])
                left -= count


def _open(out: Path, one: Wanted, entry: Optional[Dict[str, Any]]) -> Union[io.FileIO, str]:
    """The file, or why it cannot be had. Only what outputs.json lists (`entry`) is given away, and no link
    is followed on the way there: a job's folder is as untrusted as the job."""
    if entry is None:
        return "the job has no such output"
    if (entry["sha256"], entry["size"]) != (one.sha256, one.size):
        return "the job's output is another than the one asked for"
    path = out.joinpath(*one.path.split("/"))
    if os.path.realpath(str(path)) != os.path.join(os.path.realpath(str(out)), *one.path.split("/")):
        return "there is a link on the way to the output"
    try:
        source = io.FileIO(str(path), "rb")
    except OSError as error:
        return "the output cannot be read (%s)" % error.strerror
    state = os.fstat(source.fileno())
    if not stat.S_ISREG(state.st_mode) or state.st_size != one.size:
        source.close()
        return "the output has changed on the host"
    return source


def log(work: Work, job_key: Any, offset: Any, limit: Any) -> Dict[str, Any]:
    """A piece of a job's log. A negative `offset` counts from the end. `next` is where to go on; the piece
    ends before a character that is only half written."""
    paths = work.job(names.job_key(job_key))
    length = min(max(names.whole(limit, "limit", 1), _LONGEST_CHARACTER), _MOST_LOG)
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise Refused("bad_request", "offset is not a whole number")
    data, start, size = b"", 0, 0
    ended = paths.exit.exists()
    try:
        with open(str(paths.log), "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = max(0, size + offset) if offset < 0 else min(offset, size)
            stream.seek(start)
            data = stream.read(length)
    except FileNotFoundError:
        pass
    whole = data[: _whole_characters(data)] if not (ended and start + len(data) >= size) else data
    return {
        "text": whole.decode("utf-8", "replace"),
        "offset": start,
        "next": start + len(whole),
        "size": size,
        "ended": ended,
    }


def _whole_characters(data: bytes) -> int:
    """The length of `data` without the begun UTF-8 character at its end, if there is one."""
    for back in range(1, min(_LONGEST_CHARACTER, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return len(data) - back if needed > back else len(data)
    return len(data)

