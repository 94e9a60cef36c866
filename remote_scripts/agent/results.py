"""What jobs left: the verbs `outputs`, `get` and `log`."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from typing import Any, BinaryIO, Dict, List, Union

from agent import names
from agent.files import CHUNK, read_json_object
from agent.frames import encode, write_bytes_header, write_frame
from agent.problems import Refused
from agent.work import JobPaths, Work

_MOST_LOG = 1 << 20
# Not through a link, and without waiting for whoever writes to what is not a file any more.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
# From here on it pays not to gather the bytes of a file with what comes before them.
_LARGE = 1 << 16
_LARGEST = 1 << 30
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
    outs: Dict[str, _Out] = {}
    for index, one in enumerate(wanted):
        if one.job_key not in outs:
            outs[one.job_key] = _Out(work.job(one.job_key))
        source = outs[one.job_key].open(one)
        if isinstance(source, str):
            write_frame(stream, "J", encode({"index": index, "error": source}))
            continue
        with source:
            write_frame(stream, "J", encode({"index": index}))
            write_bytes_header(stream, one.size - one.offset)
            done = _send_uncopied(source, one, stream)
            source.seek(done)
            left = one.size - done
            while left:
                count = source.readinto(buffer[: min(left, CHUNK)])
                if not count:
                    raise OSError("an output became shorter while it was sent")
                stream.write(buffer[:count])
                left -= count


def _send_uncopied(source: io.FileIO, one: Wanted, stream: BinaryIO) -> int:
    """Lets the system move a large file's bytes by itself (Linux); how many of the file have gone then."""
    done = one.offset
    if one.size - done < _LARGE or not sys.platform.startswith("linux"):
        return done
    stream.flush()
    try:
        while done < one.size:
            count = os.sendfile(stream.fileno(), source.fileno(), done, min(one.size - done, _LARGEST))
            if not count:
                break
            done += count
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):  # not every file system can
            raise
    return done


class _Out:
    """The outputs of one job. Only what outputs.json lists is given away, and no link is followed on the way
    there: a job's folder is as untrusted as the job."""

    def __init__(self, paths: JobPaths) -> None:
        self._listed = {entry["path"]: entry for entry in _files(paths)}
        self._root = os.path.realpath(str(paths.out))
        self._straight: Dict[str, bool] = {}  # folder -> whether no link leads there

    def open(self, one: Wanted) -> Union[io.FileIO, str]:
        """The file, or why it cannot be had."""
        entry = self._listed.get(one.path)
        if entry is None:
            return "the job has no such output"
        if (entry["sha256"], entry["size"]) != (one.sha256, one.size):
            return "the job's output is another than the one asked for"
        path = os.path.join(self._root, *one.path.split("/"))
        # Where open() cannot refuse a link itself (Windows), each file is looked at and not only its folder.
        way = os.path.dirname(path) if hasattr(os, "O_NOFOLLOW") else path
        if way not in self._straight:
            self._straight[way] = os.path.realpath(way) == way
        if not self._straight[way]:
            return "there is a link on the way to the output"
        try:
            source = io.FileIO(os.open(path, _READ), "rb")
        except OSError as error:
            if error.errno == errno.ELOOP:
                return "there is a link on the way to the output"
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

