"""The protocol of enqueue and run, as a model that a search can exhaust. Pure.

A *world* is a control PC (`world.Control`: the case's row, the running steps, requests that are late), an
execution host (`world.Host`: the run's folder, the queue, processes) and what may still go wrong (`Budget`).
`control.moves` and `host.moves` say what can happen next, `search` follows all of it, `promises` says what
must hold. One case; a run of one or two jobs, the second needs the first.

What each move stands for:

    control.py                      mqi/steps
    scan                            scan: the first sight of a complete folder
    submit hashes, begins           begin.begin: choose, read and hash; then the transaction
    submit freezes again            begin.refreeze
    submit asks, sends, adopts      submit._offer, submit._hand_over, submit._adopt
    submit hears                    submit._settle
    sync asks, hears, records       sync._ask_about, sync._wish_answered, sync._observe with sync._conclude
    sync hears of a receipt         adopt.adopt_receipt
    fetch asks, hears               fetch._bring_home, fetch._release, purge._purge_on
    cancel, hold, let go, retry     operate
    <step> is cut off               the step is killed, or its line breaks, before, while or after the host
                                    works on its request, which may still arrive: a lost request, a late
                                    one and a lost reply are this with the request delivered never, later
                                    or at once

    host.py                         remote_scripts/agent
    the agent takes <verb>          dispatch._answer under the lock, up to the feed; plans.accept
    the agent looks                 feed.feed: the listing, feed.settle, the first half of survey.examine
    the agent judges                the second half (lock, exit again), survey.judge, survey.note_absence,
                                    feed._mind_orphan, feed.may_start, feed.choose
    the agent adds, withdraws       feed._bring, one call of the queue each
    the agent answers               report.report, then the reply
    the agent stores the plan       the end of plans.accept, after `remove(run.released)`
    the queue starts                the queue's own doing, and execute.run_once up to its locks
    run locks, finds taken          execute.run_once: the job's lock, then execute._wanted again
    run claims, finds a claim       execute._claim
    run finds a tombstone, starts   perform.perform
    run ends the command            perform._reason_to_end
    run writes the exit file        execute._write_exit; "and feeds": feed.feed_after_run
    the wrapper is killed           SIGKILL of `run`; its command lives on as an orphan with the lock
    the orphan ends                 by itself, or feed._mind_orphan when its time is up

Left out, because it changes nothing that is promised here: bytes (inputs are there or not, all of them), slots, GPUs and
priorities (every task starts some day), `seq` (one case has one asking step at a time), several hosts and
cases, the boot id (a lock that is free says the same), `have`, `outputs`, `release` and `purge` in pieces (they
are one move, feed included), time (a job is lost after `lost_listings` listings, a purge is due at once).

Without guards the same model is the habit of the field; each guard is there because the search finds a
counterexample without it. OPEN names those that the shipped code does not have yet.
"""

from __future__ import annotations

from typing import NamedTuple

# Guard -> what goes wrong without it in the shipped code. To close one: correct the product, show it in
# test_product.py, then remove its line here.
OPEN: dict[str, str] = {}


class Budget(NamedTuple):
    """What may still go wrong, and what operators may still wish."""

    kills: int = 0  # of a run, of the agent, of a step of the control PC
    late: int = 0  # requests that are lost, that come late, or whose reply is lost
    emptied: int = 0  # the queue forgets everything
    wiped: int = 0  # the work directory is emptied, with all that runs in it
    deleted: int = 0  # the database is gone
    restored: int = 0  # an older database is put back
    bad: int = 0  # commands that end badly, with a transient code
    cancels: int = 0
    retries: int = 0
    holds: int = 0
    skips: int = 0
    updates: int = 0  # mqi gets a new version
    refusals: int = 0  # the host refuses a plan (a group is not in its configuration, say)
    losses: int = 0  # the published results are gone


class Guards(NamedTuple):
    """The protocol. Each guard can be taken away, to show what it is for."""

    # what the protocol rests on
    begin: bool = True  # the intent is committed before any effect
    flock: bool = True  # one agent at a time
    label: bool = True  # a job that the queue lists is not added
    claim: bool = True  # a job that was begun is not begun again
    look_again: bool = True  # `run` looks again once it has the job's lock
    serial: bool = True  # a plan that is not newer changes nothing
    tombstone: bool = True  # `run` looks for a tombstone after its claim
    lock_look: bool = True  # nothing is lost whose lock is held
    exit_first: bool = True  # the exit file is believed over the queue
    # what this search asked for: on the host
    one_attempt: bool = True  # an attempt waits until the one that it replaces is dead
    mind_dropped: bool = True  # orphans of dropped jobs are minded, too
    unrelease_first: bool = True  # the release is forgotten before a newer plan is known, not after
    named_release: bool = True  # a release names the serial that it is for
    forward: bool = True  # no plan goes back to an earlier attempt; it is answered "newer"
    steady_no: bool = True  # what was refused stays refused, and so does what is older
    # and on the control PC
    await_dropped: bool = True  # no case ends while a job of an earlier plan runs
    adopt_wishes: bool = True  # who adopts a plan adopts its cancel and its hold
    wish_again: bool = True  # a cancel that met a newer plan is wished again on top of it
    see_serial: bool = True  # a report of a newer plan than the row's makes sync ask for that plan
    plan_names_jobs: bool = True  # the plan says which attempts count, not the highest number
    keep_refused: bool = True  # a refusal does not end a case whose earlier plan the host still holds
    hear_no: bool = True  # a next attempt that the host refuses is an end
    hold_seen: bool = True  # a hold that was given while inputs were hashed is in the plan
    retry_follows: bool = True  # a retry that waits for a cancel follows when the case ends, however it does
    confirm_empty: bool = True  # a cancel that the host confirmed holds when the host is emptied
    end_unstarted: bool = True  # a case of which nothing has started and nothing can is cancelled
    hear_purged: bool = True  # a run of which only the receipt is left is over
    receipt_serial: bool = True  # a receipt's serial and attempts are taken over
    whole_fetch: bool = True  # a good job without files on the host is not published


SHIPPED = Guards()._replace(**dict.fromkeys(OPEN, False))


class Settings(NamedTuple):
    """One search: the protocol, the size of the run, what may happen to it."""

    budget: Budget
    guards: Guards = Guards()
    slots: int = 1
    max_attempts: int = 2
    lost_listings: int = 1
    keeping: bool = False  # results are released and purged on the host
