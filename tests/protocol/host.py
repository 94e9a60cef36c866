"""The execution host: requests and feeds of the agent, the queue, and `run`. Pure: a host in, next hosts out.

Repeats, of remote_scripts/agent: execute.run_once, perform.perform, plans.accept, feed.feed, settle and
may_start, survey.note_absence, report.can_move, retention.release and purge. The verdicts are the agent's own.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.protocol.decisions import queue_changes, standing
from tests.protocol.model import Settings
from tests.protocol.world import (
    COMMAND,
    LOCKED,
    LOOKED,
    ORPHAN,
    OVER_BAD,
    OVER_OK,
    OVER_STOPPED,
    RUNS,
    TOOK,
    WAITS,
    Agent,
    Answer,
    Host,
    Key,
    Move,
    Plan,
    Receipt,
    Request,
    Run,
)

_EXITS = {OVER_OK: "ok", OVER_BAD: "bad", OVER_STOPPED: "stopped"}
_OVER = ("ended ok", "ended bad", "ended stopped", "stopped", "lost")


def moves(host: Host, settings: Settings) -> Iterator[Move]:
    """Everything that can happen next on the host, but for the arrival of a request."""
    for key in dict.fromkeys(host.queue):
        yield _queue_starts(host, key)
    if host.queue or any(run.known for run in host.runs):
        forgotten = tuple(sorted(run._replace(known=False) for run in host.runs))
        yield Move(("the queue is emptied",), "emptied", host._replace(queue=(), runs=forgotten))
    if host != Host() and not host.agents:
        # What ran in the old one is history: the promises are about one work directory.
        yield Move(("the work directory is emptied",), "wiped", Host())
    for run in dict.fromkeys(host.runs):
        yield from _run(host, settings, run)
    for agent in dict.fromkeys(host.agents):
        yield from _agent(host, settings, agent)


# --- the queue and `run` ---------------------------------------------------------------------------------


def _queue_starts(host: Host, key: Key) -> Move:
    """A task starts, and `run` takes its first look."""
    queue = list(host.queue)
    queue.remove(key)
    after = host._replace(queue=tuple(queue))
    if not _is_wanted(host, key):
        return Move(("the queue starts", key, "in vain"), "", after)
    runs = tuple(sorted((*host.runs, Run(key, LOOKED, True))))
    return Move(("the queue starts", key), "", after._replace(runs=runs))


def _is_wanted(host: Host, key: Key) -> bool:
    file, plan = host.file(key), host.stored
    wanted = plan is not None and key in plan.job_keys() and not (plan.held or plan.cancel)
    return wanted and not file.exit and not file.tombstone


def _run(host: Host, settings: Settings, run: Run) -> Iterator[Move]:
    key, file = run.key, host.file(run.key)
    if run.at == LOOKED:
        if host.locked(key) or (settings.guards.look_again and not _is_wanted(host, key)):
            yield Move(("run finds taken", key), "", host.moved(run))
        else:
            yield Move(("run locks", key), "", host.moved(run, run._replace(at=LOCKED)))
    elif run.at == LOCKED:
        if settings.guards.claim and file.claim:
            yield Move(("run finds a claim", key), "", host.moved(run))
        else:
            after = host.moved(run, run._replace(at=TOOK))
            claimed = after.put(key, file._replace(claim=True)) if settings.guards.claim else after
            yield Move(("run claims", key), "", claimed)
    elif run.at == TOOK:
        if file.tombstone and settings.guards.tombstone:
            yield Move(("run finds a tombstone", key), "", host.moved(run, run._replace(at=OVER_STOPPED)))
        else:
            counts = dict(host.ran)
            counts[key] = min(counts.get(key, 0) + 1, 2)
            after = host.moved(run, run._replace(at=COMMAND))
            yield Move(("run starts the command", key), "", after._replace(ran=tuple(sorted(counts.items()))))
    elif run.at == COMMAND:
        yield Move(("the command ends well", key), "", host.moved(run, run._replace(at=OVER_OK)))
        yield Move(("the command ends badly", key), "bad", host.moved(run, run._replace(at=OVER_BAD)))
        if file.tombstone:
            yield Move(("run ends the command", key), "", host.moved(run, run._replace(at=OVER_STOPPED)))
        orphan = host.moved(run, Run(key, ORPHAN, False))
        yield Move(("the wrapper is killed", key), "kills", orphan)
    elif run.at in _EXITS:
        exited = host.moved(run).put(key, file._replace(exit=_EXITS[run.at]))
        yield Move(("run writes the exit file", key), "", exited)
        if _lock_is_free(host, settings):
            feeding = (*host.agents, Agent("look", None, Answer("")))
            yield Move(("run writes the exit file", key, "and feeds"), "", exited._replace(agents=feeding))
    else:
        # By itself perhaps never; but a feed that minds it ends it when its time is up.
        minded = host.stored is not None and key in host.stored.job_keys()
        minded = minded or (settings.guards.mind_dropped and key in host.dropped)
        yield Move(("the orphan ends", key), "" if minded else "free", host.moved(run))
    if run.at != ORPHAN:
        yield Move(("run and its command are killed", key), "kills", host.moved(run))


# --- requests --------------------------------------------------------------------------------------------


def _lock_is_free(host: Host, settings: Settings) -> bool:
    return not host.agents or (not settings.guards.flock and len(host.agents) < 2)


def arrivals(host: Host, settings: Settings, request: Request) -> Iterator[Move]:
    """A request gets the agent's lock and is served as far as it goes before the feed."""
    if not _lock_is_free(host, settings):
        return
    label = ("the agent takes", request.verb, request.serial)
    if request.verb in ("plan", "sync"):
        answer, after = Answer(""), host
        if request.plan is not None:
            answer, after = accept(host, settings, request.plan)
            if answer.outcome == "accepted" and not request.plan.cancel:
                no = Agent(
                    "look", request._replace(plan=None, serial=0), _known(host)._replace(outcome="refused")
                )
                refusing = host._replace(agents=(*host.agents, no))
                if settings.guards.steady_no:
                    refusing = refusing._replace(refused=request.plan.serial)
                yield Move((*label, "and refuses"), "refusals", refusing)
        told = request._replace(plan=None, serial=0)
        agent = Agent("look", told, answer)
        if answer.outcome == "accepted" and host.released:
            if settings.guards.unrelease_first:
                after, agent = host._replace(released=0), Agent("store", request, answer)
            else:
                agent = Agent("unrelease", told, answer)
        yield Move((*label, answer.outcome), "", after._replace(agents=(*host.agents, agent)))
        return
    # The others change nothing before the feed: one move, whose parts others see as `plan` shows them.
    answer, after = _serve_at_once(host, settings, request)
    yield Move((*label, answer.outcome), "", after, request.who, answer)


def _known(host: Host) -> Answer:
    receipt = host.receipt
    return Answer("", host.stored, 0, receipt.serial if receipt else 0, _last_attempts(receipt))


def _what_is_known(host: Host) -> str:
    return "plan" if host.stored else "receipt" if host.receipt else ""


def _serve_at_once(host: Host, settings: Settings, request: Request) -> tuple[Answer, Host]:
    known = _known(host)
    there = tuple((key, "good") for key, file in host.files if file.exit == "ok")
    host = _fed(host, settings, request)
    if request.verb == "have":
        return known, host._replace(inputs=True)
    if request.verb == "outputs":
        return known._replace(states=there, known=_what_is_known(host)), host
    outcome, host = (_release if request.verb == "release" else _purge)(host, settings, request.serial)
    return Answer(outcome), host


def _fed(host: Host, settings: Settings, request: Request) -> Host:
    agent, host = _look(host, settings, Agent("look", request, Answer("")))
    agent, host = _judge(host, settings, agent)
    for what, key in agent.todo:
        host = _bring(host, what, key)
    return host


def _last_attempts(receipt: Receipt | None) -> tuple[int, ...]:
    last = dict(sorted(receipt.keys)) if receipt else {}
    return tuple(last[slot] for slot in sorted(last))


def accept(host: Host, settings: Settings, plan: Plan) -> tuple[Answer, Host]:
    """The `plan` verb: the answer, and the host with what was written."""
    stored, receipt, guards = host.stored, host.receipt, settings.guards
    answer = _known(host)
    if stored == plan:
        return Answer("same"), host
    if plan.serial <= host.refused and not plan.cancel:
        return answer._replace(outcome="refused"), host
    if guards.serial and stored is not None and plan.serial <= stored.serial:
        return answer._replace(outcome="newer"), host
    if guards.serial and stored is None and receipt is not None and plan.serial <= receipt.serial:
        return answer._replace(outcome="receipt"), host
    if not host.inputs and not plan.cancel:
        return answer._replace(outcome="inputs missing"), host
    if guards.forward and stored is not None and _goes_back(plan, stored):
        return answer._replace(outcome="newer"), host
    spent = [key for key in plan.job_keys() if receipt and key in receipt.keys and not host.file(key).claim]
    if spent and not plan.cancel:
        return answer._replace(outcome="refused"), host
    before = {*host.dropped, *(stored.job_keys() if stored else ())}
    dropped = tuple(sorted(before - set(plan.job_keys())))
    return Answer("accepted"), host._replace(stored=plan, dropped=dropped)


def _goes_back(plan: Plan, stored: Plan) -> bool:
    return any(new < old for new, old in zip(plan.attempts, stored.attempts, strict=True))


# --- the agent, under its lock ---------------------------------------------------------------------------


def _agent(host: Host, settings: Settings, agent: Agent) -> Iterator[Move]:
    others = list(host.agents)
    others.remove(agent)
    gone = host._replace(agents=tuple(others))
    after, label = gone, "looks"
    next_: Agent | None
    if agent.at == "unrelease":
        after, next_, label = gone._replace(released=0), agent._replace(at="look"), "forgets the release"
    elif agent.at == "store" and agent.request is not None and agent.request.plan is not None:
        label = "stores the plan"
        answer, after = accept(gone, settings, agent.request.plan)
        next_ = Agent("look", agent.request._replace(plan=None, serial=0), answer)
    elif agent.at == "look":
        next_, after = _look(gone, settings, agent)
    elif agent.at == "judge":
        label = "judges"
        next_, after = _judge(gone, settings, agent)
    elif agent.at == "bring":
        (label, key), *todo = agent.todo
        after, next_ = _bring(gone, label, key), agent._replace(todo=tuple(todo))
    else:
        answer = agent.answer._replace(states=_report(gone, settings, agent.seen))
        yield Move(("the agent answers",), "", gone, "sync", answer)
        next_ = None
    if next_ is not None and next_.at == "bring" and not next_.todo:
        if agent.request is None:
            yield Move((f"the agent {label}", "and ends"), "", after)
            next_ = None
        elif agent.request.verb == "plan":
            yield Move((f"the agent {label}", "and answers"), "", after, agent.request.who, agent.answer)
            next_ = None
        else:
            next_ = _look_again(after, next_)
    if next_ is not None:
        yield Move((f"the agent {label}",), "", after._replace(agents=(*others, next_)))
    who = agent.request.who if agent.request else ""
    yield Move(("the agent is killed before it", agent.at), "kills", gone, who, None)


def _look(host: Host, settings: Settings, agent: Agent) -> tuple[Agent, Host]:
    """The listing, then the tombstones, then of every job its exit file and its claim."""
    plan = host.stored
    waiting = tuple(dict.fromkeys(host.queue))
    listed = tuple(sorted({*waiting, *(run.key for run in host.runs if run.known)}))
    next_ = agent._replace(at="judge", listed=listed, waiting=waiting)
    if plan is None or host.released:
        return next_, host
    for key in sorted({*host.dropped, *(plan.job_keys() if plan.cancel else ())}):
        file = host.file(key)
        if not file.exit and not file.tombstone:
            host = host.put(key, file._replace(tombstone=True))
    seen = tuple((key, host.file(key).exit, host.file(key).claim) for key in plan.job_keys())
    return next_._replace(seen=seen), host


def judge(host: Host, settings: Settings, key: Key, exit_: str, claim: bool, listed: bool) -> str:
    """How a job stands: `exit_` and `claim` as they were seen before, the rest as it is now."""
    file, guards = host.file(key), settings.guards
    seen = exit_ if guards.exit_first else ""
    locked = claim and not seen and host.locked(key)
    if claim and not locked and guards.exit_first:
        seen = seen or file.exit  # it may have ended between the two looks
    return standing(
        seen, file.tombstone, claim, locked and guards.lock_look, listed, claim and file.missing < 0
    )


def _judge(host: Host, settings: Settings, agent: Agent) -> tuple[Agent, Host]:
    """The locks, and what follows: absences, orphans, and what the queue shall hold."""
    plan, wanted = host.stored, []
    for key, exit_, claim in agent.seen:
        state = judge(host, settings, key, exit_, claim, key in agent.listed)
        file = host.file(key)
        if state == "nowhere" and agent.request is not None:
            missing = -1 if file.missing + 1 >= settings.lost_listings else file.missing + 1
            host = host.put(key, file._replace(missing=missing))
        elif state == RUNS and file.missing:
            host = host.put(key, file._replace(missing=0))
        if state == WAITS and plan is not None and not plan.held and _may_start(host, settings, plan, key):
            wanted.append(key)
    minded = [key for key, _exit, _claim in agent.seen]
    minded += host.dropped if settings.guards.mind_dropped else ()
    for run in host.runs:
        if run.at == ORPHAN and run.key in minded and host.file(run.key).tombstone:
            host = host.moved(run)
    started = tuple(key for key in agent.listed if key not in agent.waiting)
    todo = queue_changes(tuple(wanted), agent.waiting, started)
    if not settings.guards.label:
        todo = (*(one for one in todo if one[0] != "adds"), *(("adds", key) for key in wanted))
    return agent._replace(at="bring", listed=(), waiting=(), seen=(), todo=todo), host


def _may_start(host: Host, settings: Settings, plan: Plan, key: Key) -> bool:
    slot = key[0]
    if slot > 0 and host.file((slot - 1, plan.attempts[slot - 1])).exit != "ok":
        return False
    replaced = [dropped for dropped in host.dropped if dropped[0] == slot and host.file(dropped).claim]
    return not settings.guards.one_attempt or not any(map(host.locked, replaced))


def _bring(host: Host, what: str, key: Key) -> Host:
    if what == "adds":
        return host._replace(queue=tuple(sorted((*host.queue, key))))
    return host._replace(queue=tuple(known for known in host.queue if known != key))


# --- what the host tells ---------------------------------------------------------------------------------


def _state(host: Host, settings: Settings, key: Key, exit_: str, claim: bool) -> str:
    listed = key in host.queue or any(run.key == key and run.known for run in host.runs)
    return judge(host, settings, key, exit_, claim, listed)


def _look_again(host: Host, agent: Agent) -> Agent:
    """The first half of a report: of every job its exit file and its claim."""
    keys = {*host.stored.job_keys(), *(key for key, _file in host.files)} if host.stored else ()
    seen = tuple((key, host.file(key).exit, host.file(key).claim) for key in sorted(keys))
    answer = agent.answer if host.stored else _known(host)._replace(outcome=agent.answer.outcome)
    answer = answer._replace(known=_what_is_known(host), serial=host.stored.serial if host.stored else 0)
    return agent._replace(at="tell", answer=answer, seen=seen)


def _report(
    host: Host, settings: Settings, seen: tuple[tuple[Key, str, bool], ...]
) -> tuple[tuple[Key, str], ...]:
    return tuple((key, _state(host, settings, key, exit_, claim)) for key, exit_, claim in seen)


def can_move(host: Host, settings: Settings) -> bool:
    """Whether a job of the run runs, or may still start."""
    plan, hopeless = host.stored, False
    if plan is None:
        return False

    def state(key: Key) -> str:
        return _state(host, settings, key, host.file(key).exit, host.file(key).claim)

    if any(state(key) == RUNS for key in host.dropped):
        return True
    for key in plan.job_keys():
        if state(key) in _OVER:
            hopeless = host.file(key).exit != "ok"
        elif not hopeless:
            return True
    return False


def _release(host: Host, settings: Settings, serial: int) -> tuple[str, Host]:
    plan = host.stored
    if plan is None:
        return ("ok" if host.receipt else "no"), host
    if settings.guards.named_release and serial < plan.serial:
        return "no", host
    if not host.released:
        if can_move(host, settings):
            return "no", host
        host = host._replace(released=plan.serial)
    return "ok", _with_receipt(host, plan)


def _with_receipt(host: Host, plan: Plan) -> Host:
    before = host.receipt.keys if host.receipt else ()
    here = (key for key, file in host.files if file.claim or file.exit)
    return host._replace(receipt=Receipt(plan.serial, tuple(sorted({*before, *here}))))


def _purge(host: Host, settings: Settings, serial: int) -> tuple[str, Host]:
    plan = host.stored
    if plan is None:
        return "ok", host
    if not host.released or can_move(host, settings):
        return "no", host
    # A `run` that has locked the job and not claimed it finds its folder gone.
    runs = tuple(run for run in host.runs if run.at != LOCKED)
    purged = _with_receipt(host, plan)._replace(stored=None, dropped=(), released=0, files=(), runs=runs)
    return "ok", purged
