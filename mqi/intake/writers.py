"""Does a program still hold one of these files open for writing? Only Windows can be asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mqi.intake.unit import FileStat

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _GENERIC_READ = 0x80000000
    _SHARE_READ_DELETE = 0x1 | 0x4
    _OPEN_EXISTING = 3
    # Do not follow a link that has been put there since the folder was listed.
    _OPEN_REPARSE_POINT = 0x00200000
    _SHARING_VIOLATION = 32
    _INVALID_HANDLE = wintypes.HANDLE(-1).value

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _create_file = _kernel32.CreateFileW
    _create_file.restype = wintypes.HANDLE
    _create_file.argtypes = (
        wintypes.LPCWSTR, wintypes.DWORD, wintypes.DWORD, wintypes.LPVOID,
        wintypes.DWORD, wintypes.DWORD, wintypes.HANDLE,
    )  # fmt: skip
    _close_handle = _kernel32.CloseHandle
    _close_handle.restype = wintypes.BOOL
    _close_handle.argtypes = (wintypes.HANDLE,)

    def _held(path: Path) -> bool:
        handle = _create_file(
            str(path), _GENERIC_READ, _SHARE_READ_DELETE, None, _OPEN_EXISTING, _OPEN_REPARSE_POINT, None
        )
        if handle == _INVALID_HANDLE:
            # Other errors (gone, no permission) are told by the reading that follows, in their own words.
            return ctypes.get_last_error() == _SHARING_VIOLATION
        _close_handle(handle)
        return False

else:

    def _held(path: Path) -> bool:
        return False  # no lock of other programs to ask: the quiet time alone has to do


def open_for_writing(folder: Path, files: Sequence[FileStat]) -> str | None:
    """The path (relative to `folder`) of a file that a writer still holds; None when there is none.

    Windows: each file is opened with read access, sharing it with readers only, which fails with error 32
    while somebody may write. The handle is closed at once, because an open one would make the writer's
    next open fail. On a network share this sees the writers that go through the same server. Elsewhere the
    answer is always None.
    """
    return next((file.path for file in files if _held(folder / file.path)), None)
