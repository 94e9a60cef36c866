"""The keys of `queue:` in mqi.yaml: see `config_keys.py`, of which they are a part."""

from __future__ import annotations

import re

from mqi.config_shape import Choice, Flag, OrNull, Text, Whole
from mqi.config_table import Entry, Many, OneOrMany, Table
from mqi.settings import Group, Pueue, Queue, Slurm

PLAIN_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
QUEUE_TYPES = ("local", "pueue", "slurm")
# Options of sbatch that the agent gives itself: another value would break what it relies on.
OWN_SBATCH_OPTIONS = (
    "--job-name", "--comment", "--chdir", "--export", "--export-file", "--output", "--error", "--input",
    "--parsable", "--array", "--wrap", "--requeue", "--no-requeue", "--nice", "--priority", "--hold", "--wait",
    "--dependency", "--ntasks", "--nodes", "--test-only", "--quiet", "--get-user-env", "--begin", "--clusters",
)  # fmt: skip


def _sbatch_option_problem(option: str) -> str | None:
    """Why mqi cannot pass `option` on to sbatch, or None when it can."""
    name = option.partition("=")[0]
    if not re.fullmatch(r"--[a-z][a-z-]*", name):
        return f"`{option}` is not an option in its long form, such as `--qos=low`"
    if name in OWN_SBATCH_OPTIONS:
        return f"mqi gives `{name}` itself"
    return None


_SBATCH_OPTIONS = Many(Text("an option of sbatch", check=_sbatch_option_problem), noun="option")

GROUP = Table(
    Entry(
        "name",
        Text("a name of a-z, 0-9, _ and -", pattern=PLAIN_NAME, fixed=True),
        "The group's name, which the steps of a workflow use.",
    ),
    Entry("slots", Whole(1, 1000), "So many jobs of this group run at once."),
    Entry(
        "gpus",
        OneOrMany(
            Choice(("none", "auto")),
            Many(Text("a GPU's UUID", pattern=r"^(GPU|MIG)-[0-9A-Za-z/-]+$", fixed=True), 1, "UUID"),
        ),
        "The GPUs that its jobs take, one each: none, auto (all that nvidia-smi shows; with Slurm the one that "
        "it gives), or a list of UUIDs.",
    ),
    Entry(
        "max_jobs",
        OrNull(Whole(1, 100_000)),
        "No further case is sent to the host when it would have more jobs of this group under way; null: only "
        "`max_cases` counts.",
    ),
    Entry("options", _SBATCH_OPTIONS, "Further options of sbatch for this group, after those of `slurm`."),
    target=Group,
)

PUEUE = Table(
    Entry(
        "program",
        Text("a program"),
        "The program `pueue` on the host, with its folder where the PATH lacks it.",
    ),
    Entry(
        "config",
        Text("a path on the host", may_be_empty=True),
        "Pueue's configuration file on the host (pueue.yml), which tells which daemon; empty: Pueue's default.",
    ),
    Entry(
        "group_prefix",
        Text("letters, digits, dots and -", pattern=r"^[A-Za-z0-9_.-]{0,32}$", may_be_empty=True, fixed=True),
        "Pueue's groups have this before the group's name; mqi makes them, and sets how many tasks run at once.",
    ),
    Entry(
        "group_per_gpu",
        Flag(),
        "true: one of Pueue's groups for each GPU of a group (mqi-gpu.0, …), so that one can be paused alone.",
    ),
    target=Pueue,
)

SLURM = Table(
    Entry(
        "bin",
        Text("a folder on the host", may_be_empty=True),
        "The folder of sbatch, squeue and scancel on the host; empty: they are in the PATH.",
    ),
    Entry(
        "config",
        Text("a path on the host", may_be_empty=True),
        "Slurm's configuration file (SLURM_CONF); empty: Slurm's default.",
    ),
    Entry(
        "partition",
        Text("a partition", may_be_empty=True, numbers=True),
        "The partition; empty: Slurm's default.",
    ),
    Entry(
        "account",
        Text("an account", may_be_empty=True, numbers=True),
        "The account that the jobs are charged to.",
    ),
    Entry(
        "time",
        Text(
            "a time of Slurm's, such as `2:00:00`",
            pattern=r"^$|^[0-9]+(:[0-9]{1,2}){0,2}$|^[0-9]+-[0-9]{1,2}(:[0-9]{1,2}){0,2}$",
            may_be_empty=True,
            numbers=True,
            fixed=True,
        ),
        "Slurm ends a job after this time (minutes, h:mm:ss, days-hours); make it longer than the steps' own limits.",
    ),
    Entry(
        "gres",
        Text("a resource such as `gpu:1`", may_be_empty=True),
        "What jobs of a group with GPUs ask for.",
    ),
    Entry(
        "options", _SBATCH_OPTIONS, "Further options of sbatch for every job, such as [--qos=low, --mem=8G]."
    ),
    target=Slurm,
)

QUEUE = Table(
    Entry(
        "type",
        Choice(QUEUE_TYPES),
        "`local` is built in: nothing to install. `pueue` and `slurm` are used where the host has them (not Windows); "
        "a host that is not this computer has `pueue` unless this says otherwise.",
    ),
    Entry("groups", Many(GROUP, 1, "group"), "The groups of jobs: how many run at once, and on which GPUs."),
    Entry(
        "max_queued",
        Whole(1, 10_000),
        "So many jobs that have not started may be in one group's queue; the others wait in their plan.",
    ),
    Entry("pueue", PUEUE, "How Pueue is used; only with `type: pueue`.", default=None),
    Entry("slurm", SLURM, "How Slurm is used; only with `type: slurm`.", default=None),
    target=Queue,
)
