"""What an exit code means, mqi's own and those of the schedulers. Pure."""

from __future__ import annotations

# As in mqi/errors.py and in the epilog of `mqi --help`; a test compares.
MEANINGS = {
    0: "done, or nothing to do",
    1: "a bug",
    2: "wrong use",
    40: "a case needs an operator",
    75: "temporary: it is tried again by itself",
    76: "a lock without progress",
    77: "login or host key",
    78: "configuration or database",
    130: "stopped by Ctrl-C",
    143: "stopped by SIGTERM",
}
HINTS = {
    1: "run it by hand with --debug, and report what it says",
    2: "mqi schedule install writes the command line anew",
    76: "the log names the process that hangs",
    77: "mqi config check says which host",
    78: "mqi config check says what is wrong",
}

# Numbers that call nobody: done, again later, and what Task Scheduler says before and during a run.
FINE = frozenset({0, 75, 0x41300, 0x41301, 0x41303})

# From Microsoft's list of Task Scheduler and Win32 codes: those that this schedule can meet.
_WINDOWS = {
    0x41300: "ready to run",
    0x41301: "running now",
    0x41302: "switched off",
    0x41303: "has not run yet",
    0x41304: "no more runs are planned",
    0x41306: "ended by a person, or because it took too long",
    0x8004131F: "it is running already",
    0x80070002: "a file was not found: is Python still there?",
    0x80070003: "a folder was not found: is Python still there?",
    0x80070005: "access is denied: may the account read mqi and its configuration?",
    0x8007010B: "the working directory (the folder of the configuration) is not there or not to be read",
    0x8007052E: "the user name or the password is wrong: was the password changed?",
    0x8007052F: "an account restriction stops the logon (an empty password, or the hour)",
    0x80070530: "the account may not log on at this hour",
    0x80070532: "the password has expired",
    0x80070533: "the account is switched off",
    0x80070569: 'the account lacks the right "Log on as a batch job"',
    0x80070775: "the account is locked",
    0x800710E0: "Task Scheduler refused to start it: a condition of the task was not met",
    0xC000013A: "stopped by Ctrl-C, or the console was closed",
    0xC0000142: "a library did not start: was somebody logged off?",
}

# Exit codes by which systemd says why it could not start the process (systemd.exec, "Process exit codes").
_SYSTEMD = {
    200: "the folder of the configuration cannot be entered (CHDIR)",
    203: "the program cannot be run: is Python still there? (EXEC)",
    216: "the group does not exist (GROUP)",
    217: "the account does not exist, or user namespaces are not allowed here (USER)",
    218: "capabilities cannot be dropped (CAPABILITIES)",
    226: "a path of the unit does not exist, or namespaces are not allowed here (NAMESPACE)",
    228: "the filter of system calls cannot be set (SECCOMP)",
}
_RESULTS = {
    "timeout": "it took too long and was ended",
    "core-dump": "it crashed",
    "signal": "it was killed",
    "oom-kill": "it was ended for want of memory",
    "start-limit-hit": "it failed too often in a short time",
    "resources": "systemd had not the means to start it",
    "exec-condition": "its condition was not met",
}


def of_mqi(code: int) -> str:
    """What mqi meant by its exit code."""
    meaning = MEANINGS.get(code)
    return f"{code}: {meaning}" if meaning else f"{code}: not an exit code of mqi"


def of_shell(code: int) -> str:
    """What the shell of cron's line saw: mqi's own code, or why there was none."""
    if code in (126, 127):
        return f"{code}: the program cannot be run: is Python still there?"
    if code > 128 and code not in MEANINGS:
        return f"{code}: it was killed (signal {code - 128})"
    return of_mqi(code)


def of_windows(code: int) -> str:
    """What a Last Run Result means: mqi's own code, or one of Windows."""
    if code in MEANINGS:
        return of_mqi(code)
    meaning = _WINDOWS.get(code)
    return f"0x{code:X}: {meaning}" if meaning else f"0x{code:X}: look this code up in Microsoft's list"


def of_systemd(result: str, ended_by: str, status: int) -> str:
    """What systemd says about the last run; "" when there was none since the computer started."""
    if not ended_by:
        return _RESULTS.get(result, "")
    if ended_by == "exited":
        if status in _SYSTEMD:
            return f"{status}: {_SYSTEMD[status]}"
        return of_mqi(status) + (f"; {_RESULTS[result]}" if result == "timeout" else "")
    return f"{_RESULTS.get(result, 'it was killed')} (signal {status})"
