"""The doses of a case -> gamma, a verdict per beam and for the case, and a report to print.

    report.py --needs needs.json --inputs inputs.json --input-dir DIR --out DIR [--parameters parameters.json]

Two questions, answered apart:

    1. Was delivered what was planned?      Delivered against planned dose of each beam, by the same engine, and the
                                            interpreter's spot check.
    2. Is the planned dose what the         Planned dose against the planning system's RT Dose, when the case has one.
       planning system says?

Writes into --out:

    qa.json                  verdict, reason, and every figure (steplib/qa.py); the control PC reads the first two
    report.html, report.pdf  the same for people; only here the patient's ID stands
    figures/*.png            the figures of the report
    RD_plan_<which>.dcm      the sum of the beams as RT Dose, when they share one phantom

Parameters, all optional, are explained in config/workflows/default_qa.yaml.

Exit codes: 0 ok (whatever the verdict), 2 bad input, 75 temporary, 78 this Python lacks a package, 1 a defect.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Sequence

# Started with -I, Python does not look beside the script. No caches: the deployed folder is named by its
# content.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
# Gamma's products are small, and it has its own threads: those of BLAS would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from steplib.find_plan import find_plan, read_inputs  # noqa: E402
from steplib.parameters import Choice, Number, read_parameters  # noqa: E402
from steplib.report import Arguments, BadInput, Progress, run_step  # noqa: E402

PARAMETERS = {
    "gamma_dose_percent": Number(3.0, 0.1, 20.0),
    "gamma_distance_mm": Number(2.0, 0.1, 20.0),
    "gamma_normalisation": Choice("global", ("global", "local")),
    "gamma_threshold_percent": Number(10.0, 1.0, 90.0),
    "tolerance_percent": Number(95.0, 0.0, 100.0),
    "action_percent": Number(90.0, 0.0, 100.0),
    "uncertainty_limit_percent": Number(5.0, 0.1, 100.0),
    "outside_limit_percent": Number(1.0, 0.0, 100.0),
    "planning_dose_rbe": Number(1.1, 1.0, 3.0),
    "planning_dose_phantom": Choice("patient", ("patient", "water")),
}


def main(argv: Sequence[str], progress: Progress) -> None:
    """Judges a case and writes its report."""
    arguments = Arguments(description="The doses of a case -> gamma, verdict, report")
    arguments.add_argument("--needs", type=Path, required=True, help="needs.json")
    arguments.add_argument("--inputs", type=Path, required=True, help="inputs.json")
    arguments.add_argument("--input-dir", type=Path, required=True, help="folder with the files 000001 …")
    arguments.add_argument("--out", type=Path, required=True, help="folder for the results")
    arguments.add_argument("--parameters", type=Path, help="parameters.json")
    given = arguments.parse_args(argv)
    parameters = read_parameters(given.parameters, PARAMETERS)
    if parameters["action_percent"] > parameters["tolerance_percent"]:
        raise BadInput("Parameter action_percent must not be above tolerance_percent.")
    inputs = read_inputs(given.inputs)
    found = find_plan(inputs, given.input_dir, lambda share, text: progress(0.1 * share, text))

    # numpy from here on: what is wrong with the arguments is said before it is missed.
    from steplib import qa, qa_report
    from steplib.case_dose import read_case

    case = read_case(given.needs)
    if case.plan_uid != str(found.dataset.get("SOPInstanceUID")):
        raise BadInput("The RT Ion Plan among the inputs is not the one that the doses were computed from.")
    given.out.mkdir(parents=True, exist_ok=True)
    result = qa.judge(
        case,
        found,
        inputs,
        given.input_dir,
        parameters,
        lambda share, text: progress(0.1 + 0.5 * share, text),
    )
    progress(0.6, "adding up the beams")
    sums = qa.write_sums(given.out, case, found.dataset)
    progress(0.65, "drawing")
    report = qa_report.compose(
        case, found, result, sums, parameters, inputs=inputs, folder=given.input_dir, progress=progress
    )
    qa_report.write(given.out, report, qa.to_json(case, result, sums, parameters))
    print(f"verdict: {result.verdict.word}; {len(case.beams)} beams")
    progress(1.0, f"verdict: {result.verdict.word}")


if __name__ == "__main__":
    sys.exit(run_step(main, sys.argv[1:]))
