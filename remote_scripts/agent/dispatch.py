"""One request after another: read it, do what its calls say, feed the queue, answer.

The agent's lock is held from the first call that needs it to the number of the answer, so that a higher
number never tells older news. Bytes that come (`put`) or go (`get`) move outside the lock.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, List, NamedTuple, Tuple

from agent import gpu_care, names, plans, report, results, retention, store, versions
from agent.feed import feed
from agent.files import FULL_OR_READ_ONLY, read_json_object, write_bytes, write_json
from agent.frames import MAX_JSON, BadFrame, encode, open_input, read_header, read_json, widen, write_frame
from agent.gpus import GpuQuery
from agent.locks import Lock
from agent.probe import probe
from agent.problems import Refused
from agent.queues.registry import open_queue
from agent.settings import Settings, keep_settings, parse_settings
from agent.survey import Listing
from agent.work import Work

PROTOCOL = 1
# A connection that sends nothing for this long is dead.
IDLE_S = 600.0
LOCK_WAIT_S = 30.0
_NONCE = re.compile(r"[0-9a-f]{8,64}")


class Context(NamedTuple):
    """What a verb may need besides its own arguments. `listing`: the queue's, after the feed."""

    work: Work
    settings: Settings
    order: int
    listing: Listing


Call = Dict[str, Any]
Verb = Callable[[Context, Call], Dict[str, Any]]


def _have(context: Context, call: Call) -> Dict[str, Any]:
    run = context.work.run(names.run_key(call.get("run_key")))
    digest = names.digest(call.get("digest"))
    blobs = plans.all_blobs(call.get("blobs"))
    stored, receipt = plans.load(run), read_json_object(run.receipt)
    known = {"plan": stored.plan} if stored else {"receipt": receipt} if receipt else None
    if (stored.plan if stored else receipt or {"digest": digest})["digest"] != digest:
        raise Refused("key_conflict", "this run key belongs to other inputs on this host")
    run.pin.parent.mkdir(parents=True, exist_ok=True)
    store.pin(run, [sha256 for sha256, _ in blobs])
    return {"known": known, "missing": store.missing_blobs(context.work, blobs)}


def _plan(context: Context, call: Call) -> Dict[str, Any]:
    return plans.accept(context.work, context.settings, call.get("plan"), context.order)


def _outputs(context: Context, call: Call) -> Dict[str, Any]:
    keys = call.get("jobs")
    if not isinstance(keys, list):
        raise Refused("bad_request", "a list of job keys was expected")
    return {"jobs": results.outputs(context.work, [names.job_key(key) for key in keys])}


def _log(context: Context, call: Call) -> Dict[str, Any]:
    return results.log(context.work, call.get("job_key"), call.get("offset", 0), call.get("limit", 65536))


def _report(context: Context, call: Call) -> Dict[str, Any]:
    keys = report.checked_run_keys(call.get("runs"))
    return {"runs": report.report(context.work, context.settings, context.listing, keys)}


def _inventory(context: Context, call: Call) -> Dict[str, Any]:
    return {"runs": report.inventory(context.work, context.settings, context.listing)}


def _release(context: Context, call: Call) -> Dict[str, Any]:
    key, serial = names.run_key(call.get("run_key")), names.whole(call.get("serial"), "serial")
    return retention.release(context.work, context.settings, context.listing, key, serial)


def _purge(context: Context, call: Call) -> Dict[str, Any]:
    keys = report.checked_run_keys(call.get("run_keys"))
    dry_run = retention.checked_flag(call.get("dry_run", False), "dry_run")
    return retention.purge(context.work, context.settings, context.listing, keys, dry_run=dry_run)


def _lift(context: Context, call: Call) -> Dict[str, Any]:
    return {"lifted": gpu_care.lift(context.work, names.gpu(call.get("gpu")))}


def _get(context: Context, call: Call) -> Dict[str, Any]:
    return {"files": len(_wanted(call))}


def _wanted(call: Call) -> List[results.Wanted]:
    files = call.get("files")
    if not isinstance(files, list):
        raise Refused("bad_request", "files is not a list")
    return [results.Wanted(entry) for entry in files]


# Verbs that change what shall happen are served before the feed; those that tell what is, after it.
BEFORE_FEED: Dict[str, Verb] = {
    "have": _have,
    "plan": _plan,
    "log": _log,
    "outputs": _outputs,
    "get": _get,
    "lift": _lift,
}
AFTER_FEED: Dict[str, Verb] = {
    "report": _report,
    "inventory": _inventory,
    "release": _release,
    "purge": _purge,
}


def serve(root: str) -> int:
    """Serves the requests on stdin, one after another, and answers on stdout; nothing of one is kept for the next.

    Returns 0 when the client got an answer, of whichever kind, to each. The first that cannot be served is the last:
    nobody knows where the next one would begin.
    """
    output = _private_output()
    source = open_input(0, IDLE_S)
    try:
        while _serve_one(root, source, output) and _is_more(source):
            pass
    except BrokenPipeError:
        return 1  # the client has gone; what was done stays done
    return 0


def _serve_one(root: str, source: BinaryIO, output: BinaryIO) -> bool:
    """Serves the next request; False when it could not be served, and was told so."""
    # Until the request is read nobody knows its nonce; the client takes an error without one, too.
    nonce = "-"
    try:
        request = _read_request(source)
        nonce = request["nonce"]
        work = Work(root)
        reply, wanted = _answer(work, request, source)
    except (Refused, BadFrame, OSError, ValueError, KeyError, TypeError) as error:
        _refuse(output, nonce, error)
        return False
    output.write(b"MQI-REPLY %s\n" % nonce.encode("ascii"))
    write_frame(output, "J", reply)
    if wanted:
        results.send(work, wanted, output)
    write_frame(output, "E")
    output.flush()
    return True


def _is_more(source: BinaryIO) -> bool:
    """Whether the client has something else to say; waits for it."""
    try:
        return bool(source.peek(1))  # type: ignore[attr-defined]  # every buffered reader has it
    except (BadFrame, OSError):
        return False


def serve_environment(root: str) -> int:
    """Serves one request for the steps' environment; 0 when the client got an answer, of whichever kind."""
    from agent import environment

    output = _private_output()
    work = Work(root)

    def admit(installation: str) -> None:
        work.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Lock(work.lock) as lock:
            _take(lock)
            _host(work, installation)

    try:
        try:
            environment.serve(work, open_input(0, IDLE_S), output, admit)
        except (Refused, BadFrame, OSError, ValueError, KeyError, TypeError) as error:
            return _refuse(output, "-", error)
    except BrokenPipeError:
        return 1  # the client has gone; what is half built is built anew the next time
    return 0


def _private_output() -> BinaryIO:
    """Our stdout; whatever else writes to file descriptor 1 from now on goes to stderr."""
    sys.stdout.flush()
    widen(1)
    output = os.fdopen(os.dup(1), "wb", buffering=1 << 16)
    os.dup2(2, 1)
    return output


def _refuse(output: BinaryIO, nonce: str, error: Exception) -> int:
    hint = ""
    if isinstance(error, Refused):
        code, message, hint = error.code, str(error), error.hint
    elif isinstance(error, BadFrame):
        code, message = "protocol", "the request cannot be read: %s" % error
    elif isinstance(error, OSError) and error.errno in FULL_OR_READ_ONLY:
        code, message = "work_dir", "the work directory cannot be used (%s)" % error.strerror
    else:
        _tell_developers()
        code, message = "internal", "the agent failed (%s)" % type(error).__name__
    output.write(b"MQI-REPLY %s\n" % nonce.encode("ascii"))
    write_frame(output, "X", encode({"code": code, "message": message, "hint": hint}))
    output.flush()
    return 0


def _read_request(source: BinaryIO) -> Dict[str, Any]:
    request = read_json(source)
    if not isinstance(request, dict) or request.get("protocol") != PROTOCOL:
        raise Refused("protocol", "this agent speaks protocol %d" % PROTOCOL)
    nonce, installation, calls = request.get("nonce"), request.get("installation"), request.get("calls")
    if not isinstance(nonce, str) or _NONCE.fullmatch(nonce) is None:
        raise Refused("bad_request", "the request has no nonce")
    if not isinstance(installation, str) or not 1 <= len(installation) <= 200:
        raise Refused("bad_request", "the request does not say which installation it comes from")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise Refused("bad_request", "calls is not a list of objects")
    return request


def _answer(work: Work, request: Dict[str, Any], source: BinaryIO) -> Tuple[bytes, List[results.Wanted]]:
    """The reply, and the files to stream after it. Raises Refused when the request cannot be served."""
    settings = parse_settings(request.get("settings"))
    queue = open_queue(work, settings)
    work.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    query = GpuQuery(work.gpus)
    calls: List[Call] = request["calls"]
    replies: List[Dict[str, Any]] = [{} for _ in calls]
    with Lock(work.lock) as lock:
        _take(lock)
        host = _host(work, request["installation"])
        retention.sweep(work)
        if calls and calls[0].get("verb") == "put":
            lock.release()
            replies[0] = _put(work, calls[0], source)
            _take(lock)
        elif read_header(source)[0] != "E":
            raise BadFrame("only a put is followed by bytes")
        keep_settings(work, request["settings"])
        seq = _next_seq(work)
        context = Context(work, settings, seq, None)
        _serve(BEFORE_FEED, context, calls, replies)
        fed = feed(work, settings, queue, count=True)
        _serve(AFTER_FEED, context._replace(listing=fed.listing), calls, replies)
        versions.drop_unused(work, fed, time.time())
    for index, call in enumerate(calls):
        if not replies[index]:
            replies[index] = _no("bad_request", "no such call here: %.40r" % (call.get("verb"),))
    wanted = [one for call in calls if call.get("verb") == "get" for one in _wanted_if_right(call)]
    reply = encode(
        {
            "protocol": PROTOCOL,
            "nonce": request["nonce"],
            "work_id": host["work_id"],
            "seq": seq,
            "now": time.time(),
            "boot_id": settings.boot_id(),
            "agent": Path(__file__).resolve().parent.parent.name,
            "probe": probe(work, settings, fed, query),
            "replies": replies,
        }
    )
    if len(reply) > MAX_JSON:
        raise Refused("too_large", "the answer is too long for one message: ask for less at a time")
    return reply, wanted


def _take(lock: Lock) -> None:
    if not lock.acquire(LOCK_WAIT_S):
        raise Refused("lock_timeout", "another request has kept this host's agent busy for %d s" % LOCK_WAIT_S)


def _host(work: Work, installation: str) -> Dict[str, Any]:
    """The identity of the work directory, made by the first request. Call under the agent's lock."""
    host = read_json_object(work.host)
    if host is None:
        host = {"work_id": os.urandom(16).hex(), "created_at": time.time(), "installation": installation}
        write_json(work.host, host)
    if host["installation"] != installation:
        raise Refused(
            "foreign_installation",
            "this work directory belongs to another installation of mqi",
            "give each control PC its own work_dir on the host",
        )
    return host


def _next_seq(work: Work) -> int:
    try:
        seq = int(work.seq.read_bytes()) + 1
    except FileNotFoundError:
        seq = 1
    write_bytes(work.seq, b"%d" % seq)
    return seq


def _put(work: Work, call: Call, source: BinaryIO) -> Dict[str, Any]:
    blobs = call.get("blobs")
    if not isinstance(blobs, list):
        raise Refused("bad_request", "blobs is not a list")
    return dict(store.receive(work, [store.Blob(entry) for entry in blobs], source), ok=True)


def _serve(verbs: Dict[str, Verb], context: Context, calls: List[Call], replies: List[Dict[str, Any]]) -> None:
    for index, call in enumerate(calls):
        verb = call.get("verb")
        if isinstance(verb, str) and verb in verbs:
            try:
                replies[index] = dict(verbs[verb](context, call), ok=True)
            except Refused as error:
                replies[index] = _no(error.code, str(error), error.hint)
            except (ValueError, KeyError, TypeError) as error:
                # Our own files are broken, or we are; the other calls have a right to their answers.
                _tell_developers()
                replies[index] = _no("internal", "the agent failed at %s (%s)" % (verb, type(error).__name__))


def _tell_developers() -> None:
    import traceback  # slow to import, and seldom needed

    traceback.print_exc()


def _no(code: str, message: str, hint: str = "") -> Dict[str, Any]:
    return {"ok": False, "code": code, "message": message, "hint": hint}


def _wanted_if_right(call: Call) -> List[results.Wanted]:
    try:
        return _wanted(call)
    except Refused:
        return []  # the call's reply says so
