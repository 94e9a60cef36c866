"""The processes of this computer, on Linux and on Windows: who they are, and their sudden end."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Under Wine processes start ten times slower.
PATIENCE = 6.0 if sys.platform == "win32" else 1.0


def wait_for(look: Callable[[], T], what: str, timeout_s: float = 60.0) -> T:
    """The first true value of `look`; fails the test when there is none in time."""
    timeout_s *= PATIENCE
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        value = look()
        if value:
            return value
        time.sleep(0.03)
    raise AssertionError(f"waited {timeout_s:g} s for {what}")


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    _kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    _native = ctypes.WinDLL("ntdll")
    _shell = ctypes.WinDLL("shell32")
    _kernel.OpenProcess.restype = wintypes.HANDLE
    _kernel.CloseHandle.argtypes = [wintypes.HANDLE]
    _kernel.GetExitCodeProcess.argtypes = [wintypes.HANDLE, ctypes.c_void_p]
    _kernel.ReadProcessMemory.argtypes = [
        wintypes.HANDLE, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p,
    ]  # fmt: skip
    _kernel.LocalFree.argtypes = [ctypes.c_void_p]
    _native.NtQueryInformationProcess.argtypes = [
        wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.ULONG, ctypes.c_void_p,
    ]  # fmt: skip
    _shell.CommandLineToArgvW.restype = ctypes.POINTER(ctypes.c_wchar_p)
    _shell.CommandLineToArgvW.argtypes = [wintypes.LPCWSTR, ctypes.c_void_p]
    _QUERY_AND_READ = 0x400 | 0x10
    _STILL_ACTIVE = 259

    def is_alive(pid: int) -> bool:
        """Whether the process lives."""
        handle = _kernel.OpenProcess(_QUERY_AND_READ, False, pid)
        if not handle:
            return False
        code = wintypes.DWORD()
        _kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        _kernel.CloseHandle(handle)
        return code.value == _STILL_ACTIVE

    def all_processes() -> Iterator[tuple[int, list[str]]]:
        """(pid, argv) of every process but this one."""
        pids = (wintypes.DWORD * 4096)()
        size = wintypes.DWORD()
        _kernel.K32EnumProcesses(pids, ctypes.sizeof(pids), ctypes.byref(size))
        for pid in pids[: size.value // ctypes.sizeof(wintypes.DWORD)]:
            handle = _kernel.OpenProcess(_QUERY_AND_READ, False, pid)
            if handle and pid != os.getpid():
                words = _words(_command_line(handle))
                if words:
                    yield pid, words
            if handle:
                _kernel.CloseHandle(handle)

    def _command_line(handle: int) -> str:
        """What Windows keeps of it in the process itself (64 bits): PEB, parameters, the string; or ""."""
        basic = (ctypes.c_uint64 * 6)()
        _native.NtQueryInformationProcess(handle, 0, basic, ctypes.sizeof(basic), None)
        parameters = _read(handle, basic[1] + 0x20, 8)
        text = _read(handle, int.from_bytes(parameters, "little") + 0x70, 16)
        length, place = int.from_bytes(text[:2], "little"), int.from_bytes(text[8:], "little")
        return _read(handle, place, length).decode("utf-16-le", "replace")

    def _read(handle: int, place: int, size: int) -> bytes:
        data = ctypes.create_string_buffer(size)
        done = place and _kernel.ReadProcessMemory(handle, place, data, size, None)
        return data.raw if done else b""

    def _words(line: str) -> list[str]:
        count = ctypes.c_int()
        words = _shell.CommandLineToArgvW(line, ctypes.byref(count)) if line else None
        found = words[: count.value] if words else []
        _kernel.LocalFree(words)
        return [str(word) for word in found]

    _KILL = signal.SIGTERM  # TerminateProcess: nothing in the process hears of it
else:

    def is_alive(pid: int) -> bool:
        """Whether the process lives; a zombie does not."""
        try:
            return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def all_processes() -> Iterator[tuple[int, list[str]]]:
        """(pid, argv) of every process but this one."""
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                try:
                    words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                yield int(name), [os.fsdecode(word) for word in words]

    _KILL = signal.SIGKILL


def kill(pid: int) -> None:
    """Ends a process without warning, and waits until it is gone."""
    try:
        os.kill(pid, _KILL)
    except OSError:
        if is_alive(pid):
            raise
        return
    wait_for(lambda: not is_alive(pid), f"process {pid} to die")
