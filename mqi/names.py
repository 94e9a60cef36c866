"""Names that every file system we meet can hold, made from names that others chose. Pure, but for `inside`.

NTFS forbids some characters, drops trailing dots and spaces, and opens a device instead of a file for
`aux` or `nul.txt` (the data is lost without an error), so every name that came from elsewhere goes through
`safe_name` before it becomes one of ours, on Linux too: results are copied between the two.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

MAX_CHARACTERS = 120  # UTF-16 units; NTFS takes 255, but several such names make up a path
MAX_BYTES = 200  # UTF-8; ext4 takes 255, and suffixes such as `.part~` are added
HASH_DIGITS = 8

_FORBIDDEN = frozenset('<>:"/\\|?*')
# Controls, formatting characters that hide or reorder what is shown, halves of UTF-16 pairs, line breaks.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³]|conin\$|conout\$|clock\$)[ ]*(?:\.|$)", re.IGNORECASE | re.DOTALL
)
_EXTENSION = re.compile(r"(?<=.)\.[A-Za-z0-9]{1,10}$", re.DOTALL)


def is_unsafe_on_windows(name: str) -> bool:
    """Whether Windows opens something else than this name, or nothing: `aux`, `nul.xml`, `a.`, `b `."""
    return bool(_RESERVED.match(name)) or name.endswith((".", " ")) or any(c in _FORBIDDEN for c in name)


def safe_name(name: str) -> str:
    """A legal file name on NTFS and on Linux that resembles `name`: at most 120 characters and 200 bytes.

    The same name always gives the same result, and a result gives itself. Letters of every script stay, in
    their composed form (NFC). Different names may give the same result: see `unique_names`.
    """
    text = "".join(
        "_" if character in _FORBIDDEN or unicodedata.category(character) in _UNPRINTABLE else character
        for character in unicodedata.normalize("NFC", name)
    )
    text = unicodedata.normalize("NFC", text)
    body = text.rstrip(". ")
    text = body + "_" * (len(text) - len(body))
    if text.startswith(" "):
        text = "_" + text[1:]
    if _RESERVED.match(text):
        text = "_" + text
    if _too_long(text):
        return _with_hash(text, name)
    return text or "_"


def safe_relative(path: str) -> str:
    """A posix path whose every part is a safe name; never absolute and never climbing, whatever `path` is."""
    return "/".join(safe_name(part) for part in path.split("/") if part not in ("", ".")) or "_"


def unique_names(paths: Iterable[str]) -> dict[str, str]:
    """For each posix path a safe relative path, no two of which are the same file on any file system.

    Two names are the same when they differ in case or in Unicode composition only; and none of the results
    is a folder of another. A name that is taken gets a short hash of its original path. The result depends
    on the set of paths alone, not on their order; paths that are safe already keep their names.
    """
    safe = {path: safe_relative(path) for path in paths}
    folders = {_key(parent) for path in safe.values() for parent in _parents(path)}
    taken: set[str] = set()
    names: dict[str, str] = {}
    for path in sorted(safe, key=lambda path: (safe[path] != path, path)):
        candidate = safe[path]
        attempt = 0
        while _key(candidate) in taken or _key(candidate) in folders:
            folder, slash, name = safe[path].rpartition("/")
            candidate = folder + slash + _with_hash(name, f"{attempt}:{path}")
            attempt += 1
        taken.add(_key(candidate))
        names[path] = candidate
    return {path: names[path] for path in safe}


def inside(root: Path, path: Path) -> bool:
    """Whether `path` lies below `root` when every link on the way is followed. `root` itself does not."""
    try:
        real_root, real = root.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links (RuntimeError before 3.13), a NUL
        return False
    return real != real_root and real.is_relative_to(real_root)


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:length]) for length in range(1, len(parts)))


def _key(path: str) -> str:
    # Upper case first: file systems compare by it, and it merges more (dotless i) than case folding does.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).upper().casefold())


def _too_long(text: str) -> bool:
    return len(text.encode("utf-16-le")) > 2 * MAX_CHARACTERS or len(text.encode("utf-8")) > MAX_BYTES


def _with_hash(text: str, original: str) -> str:
    """`text` cut so that a hash of `original` fits in before its extension."""
    import hashlib  # OpenSSL takes its time to load, and few names need it

    extension = _EXTENSION.search(text)
    ending = extension.group() if extension else ""
    mark = hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS]
    stem = text.removesuffix(ending)
    while _too_long(f"{stem}~{mark}{ending}"):
        stem = stem[:-1]
    return f"{stem}~{mark}{ending}"
