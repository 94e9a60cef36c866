"""RT Ion Plan and delivery records -> per treatment beam, what was planned and what was delivered, spot by spot.

    interpreter.py --inputs inputs.json --input-dir DIR --out DIR [--files DIR] [--parameters parameters.json]

Reads the one RT Ion Plan among the inputs (steplib/find_plan.py, steplib/plan.py) and every delivery record:

    PTN logs                             steplib/ptn_files.py, steplib/ptn_spots.py; need the room's machine file
    RT Ion Beams Treatment Records       steplib/treatment_record.py
    CSV                                  steplib/delivered_csv.py

A case without any delivery record is fine: then there are planned spots only. Records that are damaged, incomplete,
another patient's or in conflict with the plan are refused before anything is written. Into --out go:

    beams.json, beam_<n>.csv, delivered_<n>.csv      steplib/tables.py, steplib/spot_table.py
    log/beam_<n>/NN_EEE.EEMeV.csv                    moqui's log layout, steplib/moqui_log.py
    spot_check.json, spot_map_<n>.png, spot_errors_<n>.png     delivered against planned, steplib/spot_check.py:
        {"format": 1, "tolerances": {…}, "beams": [{"number", "verdict", "reason", "planned_spots",
         "delivered_spots", "missing", "doubled", "extra", "extra_mu", "planned_mu", "delivered_mu",
         "position_mm": {"n", "mean", "sd", "p95", "max", "mean_x", "mean_y"},
         "mu_percent": {"mean", "sd", "p95_abs", "max_abs", "total"}, "mu_from", "interlocks",
         "layers": [{"layer", "energy_MeV", the same numbers}], "figures": [names]}]}
        A spot check that fails does not fail the step: the report tells it.

`--files` is the folder with the room's machine file (machines/<room>.yaml: steplib/delivery_log.py for the log,
steplib/beam_model.py for protons per MU). It may be empty as long as there is no PTN log.

Parameters, all optional (the spot check's are described in steplib/spot_check.py):

    range_shifter_wet_mm   {"RS_5CM": 57.0}: water equivalent thickness by range shifter ID, for plans that do
                           not tell it (300A,0366); a thickness in the plan goes first. Default: none.
    energy_min_MeV         the machine's lowest energy; default 50, which is also the least allowed
    energy_max_MeV         the machine's highest energy; default 300, which is also the most allowed
    spot_match_mm 3, position_tolerance_mm 1, position_action_mm 2, mu_tolerance_percent 2, mu_action_percent 5,
    spot_mu_tolerance_percent 10, count_tolerance_percent 0.1, count_action_percent 1

Exit codes: 0 ok, 2 bad input, 75 temporary, 78 this Python lacks a package, 1 a defect (steplib/report.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

# Started with -I, Python does not look beside the script. No caches: the deployed folder is named by its
# content.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from steplib.find_plan import find_plan, read_inputs  # noqa: E402
from steplib.parameters import Number, Numbers, read_parameters  # noqa: E402
from steplib.plan import ENERGY_HIGH_MEV, ENERGY_LOW_MEV, Plan, read_plan  # noqa: E402
from steplib.report import Arguments, BadInput, Progress, run_step  # noqa: E402

SPOT_CHECK = {
    "spot_match_mm": Number(3.0, 0.1, 50.0),
    "position_tolerance_mm": Number(1.0, 0.0, 50.0),
    "position_action_mm": Number(2.0, 0.0, 50.0),
    "mu_tolerance_percent": Number(2.0, 0.0, 100.0),
    "mu_action_percent": Number(5.0, 0.0, 100.0),
    "spot_mu_tolerance_percent": Number(10.0, 0.1, 1000.0),
    "count_tolerance_percent": Number(0.1, 0.0, 100.0),
    "count_action_percent": Number(1.0, 0.0, 100.0),
}
PARAMETERS = {
    "range_shifter_wet_mm": Numbers(0.0, 500.0),
    "energy_min_MeV": Number(ENERGY_LOW_MEV, ENERGY_LOW_MEV, ENERGY_HIGH_MEV),
    "energy_max_MeV": Number(ENERGY_HIGH_MEV, ENERGY_LOW_MEV, ENERGY_HIGH_MEV),
    **SPOT_CHECK,
}


def main(argv: Sequence[str], progress: Progress) -> None:
    """Reads and checks everything, then writes."""
    given = _arguments(argv)
    parameters = read_parameters(given.parameters, PARAMETERS)
    energies_mev = (parameters["energy_min_MeV"], parameters["energy_max_MeV"])
    if energies_mev[0] >= energies_mev[1]:
        raise BadInput("Parameter energy_min_MeV must be below energy_max_MeV.")
    for name in ("position", "mu", "count"):
        unit = "mm" if name == "position" else "percent"
        if parameters[f"{name}_tolerance_{unit}"] > parameters[f"{name}_action_{unit}"]:
            raise BadInput(f"Parameter {name}_tolerance_{unit} must not be above {name}_action_{unit}.")
    inputs = read_inputs(given.inputs)
    found = find_plan(inputs, given.input_dir, progress)
    plan = read_plan(found.dataset, parameters["range_shifter_wet_mm"], energies_mev)

    from steplib import moqui_log, spot_figures
    from steplib.delivered import together
    from steplib.deliveries import by_beam, read_deliveries
    from steplib.spot_check import Tolerances, check_beam
    from steplib.spot_table import planned_spots
    from steplib.tables import write_tables

    log, protons_per_mu, machine_file = _machine(given.files, plan)
    records = by_beam(read_deliveries(inputs, given.input_dir, found.classes, plan, log, progress))
    planned = {beam.number: planned_spots(beam, protons_per_mu) for beam in plan.beams}
    delivered = {}
    for beam in plan.beams:
        result = together(beam, records.get(beam.number, []), protons_per_mu)
        if result is not None:
            delivered[beam.number] = result
    limits = {key: parameters[key] for key in SPOT_CHECK}
    entries = []
    progress(0.75, "writing")
    given.out.mkdir(parents=True, exist_ok=True)
    for done, beam in enumerate(plan.beams):
        own = delivered.get(beam.number)
        table, facts = (own.table, own.facts) if own else (None, None)
        entry, comparison = check_beam(beam.number, planned[beam.number], table, facts, Tolerances(**limits))
        if own and comparison is not None:
            moqui_log.write_log(given.out, own)
            entry["figures"] = spot_figures.draw(given.out, entry, comparison, limits)
        entries.append(entry)
        progress(0.75 + 0.2 * (done + 1) / len(plan.beams), f"beam {beam.number}")
        print(_summary(planned[beam.number], table, entry))
    check: Dict[str, Any] = {"format": 1, "tolerances": limits, "beams": entries}
    (given.out / "spot_check.json").write_bytes((json.dumps(check, indent=1) + "\n").encode())
    source = {"input": found.source.number, "sha256": found.source.sha256}
    write_tables(given.out, plan, source, machine_file, planned, delivered)
    progress(1.0, f"{len(plan.beams)} treatment beams, {len(delivered)} with a delivery record")


def _arguments(argv: Sequence[str]) -> Any:
    arguments = Arguments(
        description="RT Ion Plan and delivery records -> planned and delivered spots per beam"
    )
    arguments.add_argument("--inputs", type=Path, required=True, help="inputs.json")
    arguments.add_argument("--input-dir", type=Path, required=True, help="folder with the files 000001 …")
    arguments.add_argument("--out", type=Path, required=True, help="folder for the results")
    arguments.add_argument("--files", type=Path, help="folder with the room's machine file")
    arguments.add_argument("--parameters", type=Path, help="parameters.json")
    return arguments.parse_args(argv)


def _machine(folder: Optional[Path], plan: Plan) -> Tuple[Any, Any, Optional[Mapping[str, str]]]:
    """How to read the log, protons per MU by energy, and which file says so; None each without a machine file."""
    if folder is None or not folder.is_dir() or not any(folder.rglob("*.yaml")):
        return None, None, None
    from steplib.beam_model import find_machine
    from steplib.delivery_log import read_delivery_log

    machine = find_machine(folder)
    machine.demand(plan.beams[0].machine)
    path = next(folder.rglob("*.yaml"))
    return (
        read_delivery_log(path.read_bytes()),
        machine.model.protons_per_mu,
        {"name": path.name, "sha256": machine.sha256},
    )


def _summary(planned: Any, delivered: Any, entry: Mapping[str, Any]) -> str:
    text = f"beam {entry['number']}: {len(planned)} spots, {float(planned.mu.sum()):.3f} MU planned"
    if delivered is None:
        return text + ", no delivery record"
    return text + f", {float(delivered.mu.sum()):.3f} MU delivered, spot check: {entry['verdict']}"


if __name__ == "__main__":
    sys.exit(run_step(main, sys.argv[1:]))
