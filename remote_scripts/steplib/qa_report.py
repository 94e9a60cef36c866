"""What the report says, block by block, and its files. The patient's ID stands in report.html and report.pdf only:
whoever signs it must know whom it is about; file names, figures, qa.json and logs do without."""

from __future__ import annotations

import datetime
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from . import qa_figures, structures
from .case_dose import WHICH, BeamDose, CaseDose, added, one_phantom
from .dicom import Item
from .document import Badge, Block, Document, Figure, Heading, Table, Text, to_html
from .find_plan import FoundPlan
from .qa import NOTICE, BeamResult, Compared, Result, outside_percent
from .report import BadInput, Progress
from .verdict import NOT_COMPARABLE

BANNER = "RESEARCH TOOL, NOT A MEDICAL DEVICE · not cleared for clinical decisions"


@dataclass(frozen=True)
class Report:
    """The document, and the figures by their file names."""

    document: Document
    figures: Mapping[str, bytes]


class Figures:
    """Collects figures under their file names while the document is made."""

    def __init__(self) -> None:
        self.files: Dict[str, bytes] = {}

    def block(self, name: str, png: bytes, caption: str, width: float = 1.0) -> Figure:
        """The figure as a block; its file is figures/<name>."""
        self.files[name] = png
        return Figure(png, caption, width)


def compose(
    case: CaseDose,
    plan: FoundPlan,
    result: Result,
    sums: Mapping[str, Any],
    parameters: Mapping[str, Any],
    *,
    inputs: Sequence[Any],
    folder: Path,
    progress: Progress,
) -> Report:
    """The whole document."""
    item, figures = Item(plan.dataset, "The RT Ion Plan"), Figures()
    outlines, left_out = _structures(case, plan, inputs, folder)
    blocks: List[Block] = [Badge("Verdict of the case:", result.verdict.word, result.verdict.reason)]
    blocks += [_facts(case, item, result), *_overview(result)]
    blocks.append(Heading("1. Was delivered what was planned?", new_page=True))
    blocks.append(Text(_FIRST.format(criteria=result.criteria), quiet=True))
    for place, each in enumerate(result.beams):
        progress(0.65 + 0.2 * place / len(result.beams), f"drawing beam {each.beam.number}")
        blocks += _beam(each, case.interpreter, figures, outlines, result.criteria.cap, first=place == 0)
    blocks += _planning(result, figures, outlines)
    blocks += _dvh(case, outlines, left_out, figures)
    blocks += _provenance(case, plan, result, sums, parameters)
    footer = f"plan {case.plan_uid} · made {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC"
    return Report(Document("Dose recalculation report", BANNER, footer, tuple(blocks)), figures.files)


_FIRST = (
    "Dose of the delivered spots against dose of the planned spots, by the same engine in the same geometry: "
    "gamma {criteria}, and the spot check. Errors of the engine or of the beam model show in both doses alike and are "
    "not seen here. Action levels after AAPM TG-218, which is about measurements. Noise in the delivered dose makes "
    "gamma smaller than it is."
)


def write(out: Path, report: Report, qa: Mapping[str, Any]) -> None:
    """Every file under a temporary name, then renamed; qa.json last."""
    from .document_pdf import to_pdf

    (out / "figures").mkdir(exist_ok=True)
    for name, png in report.figures.items():
        _write(out / "figures" / name, png)
    _write(out / "report.html", to_html(report.document).encode("utf-8", "replace"))
    _write(out / "report.pdf", to_pdf(report.document))
    text = json.dumps(qa, indent=1, ensure_ascii=False, allow_nan=False)
    _write(out / "qa.json", (text + "\n").encode("utf-8", "replace"))


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part~")
    part.write_bytes(content)
    os.replace(str(part), str(path))


def _facts(case: CaseDose, plan: Item, result: Result) -> Table:
    beams = case.beams
    engine = _object(beams[0].summary.get("engine"))
    rows = [
        ("Patient ID", plan.text("PatientID") or "not in the plan"),
        ("Plan", plan.text("RTPlanLabel") or "without a label"),
        ("Plan UID", case.plan_uid),
        ("Machine", str(case.index.get("machine") or "not in the plan")),
        ("Treatment beams", ", ".join(f"{beam.number} {beam.name}".strip() for beam in beams)),
        ("Fractions planned", str(case.index["plan"].get("fractions") or "not in the plan")),
        ("Engine", " ".join(str(engine[key]) for key in ("name", "version") if engine.get(key))),
        ("Geometry", "; ".join(dict.fromkeys(_geometry(beam) for beam in beams))),
        ("Criteria", str(result.criteria)),
        ("Doses", "physical dose to water of one fraction (RBE 1)"),
    ]
    return Table(("", ""), rows, (22, 78))


def _geometry(beam: BeamDose) -> str:
    facts = beam.geometry
    if facts.get("kind") == "water":
        return f"water phantom, isocentre {facts.get('isocentre_depth_mm', '?')} mm deep, angles {facts.get('angles')}"
    return "CT of the patient" if facts.get("kind") == "ct" else "not told by the engine"


def _overview(result: Result) -> List[Block]:
    rows = []
    for each in result.beams:
        gamma = each.compared.gamma if each.compared else None
        rows.append(
            (
                str(each.beam.number),
                each.verdict.word,
                _number(gamma.pass_percent if gamma else None, ".2f"),
                _number(each.compared.ratio if each.compared else None, ".4f"),
                str(each.beam.spot_check.get("verdict") or "none"),
                " / ".join(_number(each.beam.number_of(which, "uncertainty_percent"), ".1f") for which in WHICH),
                each.verdict.reason,
            )
        )
    head = ("beam", "delivered as planned?", "gamma %", "dose ratio", "spots", "σ % pl./del.", "reason")
    blocks: List[Block] = [Heading("Beams", 2), Table(head, rows, (8, 15, 11, 11, 14, 13, 33), (0, 2, 3))]
    planning = result.planning
    if planning is None:
        blocks.append(Text("The case holds no dose of the planning system: the second question was not asked."))
    else:
        blocks.append(Badge("Planned dose as in the planning system?", planning.verdict.word, planning.verdict.reason))
    return blocks


def _beam(
    result: BeamResult,
    interpreter: Path,
    figures: Figures,
    outlines: Sequence[structures.Structure],
    cap: float,
    *,
    first: bool,
) -> List[Block]:
    beam, number = result.beam, result.beam.number
    blocks: List[Block] = [
        Heading(f"Beam {number} {beam.name}".rstrip(), 2, new_page=not first),
        Badge("", result.verdict.word, result.verdict.reason),
    ]
    blocks.append(_beam_table(beam))
    blocks += _spot_figures(beam, interpreter, figures)
    if result.compared is not None:
        blocks += _comparison(f"beam_{number}", result.compared, ("planned", "delivered"), figures, outlines, cap)
    elif "planned" in beam.doses:
        grid = {"planned": beam.doses["planned"]}
        png = qa_figures.profiles(grid)
        blocks.append(figures.block(f"beam_{number}_profiles.png", png, "Profiles of the planned dose"))
    depth = beam.folder / "depth_dose.png"
    if depth.is_file():
        blocks.append(figures.block(f"beam_{number}_depth_dose.png", depth.read_bytes(), "Depth dose", 0.8))
    return blocks


def _spot_figures(beam: BeamDose, interpreter: Path, figures: Figures) -> List[Block]:
    """The spot check's own figures; its file names only when they are plain ones of PNG files that are there."""
    named = beam.spot_check.get("figures")
    found: List[Block] = []
    for name in named if isinstance(named, list) else []:
        path = interpreter / Path(str(name)).name
        if str(name) == path.name and path.suffix == ".png" and path.is_file():
            found.append(figures.block(path.name, path.read_bytes(), path.stem.replace("_", " "), 0.85))
    return found


def _comparison(
    name: str,
    compared: Compared,
    names: Tuple[str, str],
    figures: Figures,
    outlines: Sequence[structures.Structure],
    cap: float,
) -> List[Block]:
    found, reference = compared.gamma, compared.reference
    row = [_number(found.pass_percent, ".2f"), str(found.points), str(found.outside), _number(found.mean, ".3f")]
    row.append(_number(found.greatest, ".2f") + (" (cap)" if found.greatest >= cap else ""))
    row += [_number(compared.ratio, ".4f"), _number(found.normalisation_gy, ".4f")]
    head = ("gamma ≤ 1, %", "points", "outside", "mean", "max", f"dose ratio {names[1]}/{names[0]}", "100 % is, Gy")
    blocks: List[Block] = [Table(head, [row], (14, 12, 12, 12, 14, 22, 14), tuple(range(7)))]
    if not found.points:
        return blocks
    png = qa_figures.profiles({names[0]: reference, names[1]: compared.evaluated})
    told = "Profiles through that centre; bands: one standard deviation"
    blocks.append(figures.block(f"{name}_profiles.png", png, told))
    png = qa_figures.histogram(found.index, cap)
    blocks.append(figures.block(f"{name}_gamma.png", png, "Gamma of all points; red: failed"))
    plane = qa_figures.centre_of(reference.dose_gy)[0]
    here = float(reference.axes_mm()[2][plane])
    shown = {each.name: each.at(here) for each in outlines if each.at(here)}
    png = qa_figures.slices(reference, compared.evaluated, found.index, names, shown)
    told = f"Planes through the centre of the dose: {names[0]}, {names[1]}, gamma"
    blocks.append(figures.block(f"{name}_slices.png", png, told))
    return blocks


def _beam_table(beam: BeamDose) -> Table:
    spots = _object(beam.spot_check)
    position, mu = _object(spots.get("position_mm")), _object(spots.get("mu_percent"))
    delivered = _object(beam.entry.get("delivered"))
    rows = [("Planned", _amount(beam.entry))]
    record = f"; record: {delivered.get('source')}, interlocks: {delivered.get('interlocks')}"
    rows.append(("Delivered", _amount(delivered) + record if delivered else "no delivery record"))
    if position or mu:
        counts = f"{spots.get('missing')} missing, {spots.get('doubled')} doubled, {spots.get('extra')} extra"
        placed = ", ".join(f"{key} {_of(position, key, '.2f')}" for key in ("mean", "sd", "p95", "max"))
        weighed = ", ".join(f"{key} {_of(mu, key, '+.2f')}" for key in ("mean", "sd", "max_abs", "total"))
        rows += [("Spots", counts), ("Position error", placed + " mm"), ("MU error", weighed + " %")]
    for which in WHICH:
        told = beam.of_dose(which)
        if told:
            rows.append(
                (
                    f"{which.capitalize()} dose",
                    f"{_of(told, 'protons', '.3e')} protons, {told.get('primaries')} simulated, σ "
                    f"{_of(told, 'uncertainty_percent', '.2f')} %, outside the geometry "
                    f"{_number(outside_percent(beam, which), '.2f')} %, max {_of(told, 'maximum_Gy', '.4f')} Gy",
                )
            )
    return Table(("", ""), rows, (18, 82))


def _amount(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('spots')} spots in {facts.get('layers')} layers, {_of(facts, 'total_mu', '.3f')} MU"


def _planning(result: Result, figures: Figures, outlines: Sequence[structures.Structure]) -> List[Block]:
    blocks: List[Block] = [
        Heading("2. Is the planned dose what the planning system says?", new_page=result.planning is not None)
    ]
    planning = result.planning
    if planning is None:
        return [*blocks, Text("The case holds no dose of the planning system.")]
    blocks.append(Badge("", planning.verdict.word, planning.verdict.reason))
    told = "Our dose of the planned spots against the planning system's, as physical dose of one fraction."
    blocks.append(Text(told, quiet=True))
    for dose, compared in planning.compared:
        name = "plan" if dose.beam is None else f"beam_{dose.beam}"
        facts = dose.facts
        what = "Whole plan" if dose.beam is None else f"Beam {dose.beam}"
        blocks.append(Heading(what, 2))
        blocks.append(
            Text(
                f"RT Dose {facts['sop_instance_uid']}: {facts['summation']}, {facts['dose_type']}, divided by RBE "
                f"{facts['divided_by_rbe']:g} and {facts['divided_by_fractions']} fractions.",
                quiet=True,
            )
        )
        names = ("planning system", "planned (ours)")
        blocks += _comparison(f"planning_{name}", compared, names, figures, outlines, result.criteria.cap)
    blocks += [Text(f"Not compared: {sentence}") for sentence in planning.refused]
    return blocks


def _structures(
    case: CaseDose, plan: FoundPlan, inputs: Sequence[Any], folder: Path
) -> Tuple[List[structures.Structure], List[str]]:
    """The structures that may be drawn over these doses, and why others may not."""
    from .find_plan import read_dicom, read_input

    own = [each for each in inputs if plan.classes.get(each.number) == structures.RT_STRUCTURE_SET]
    if not own:
        return [], ["The case holds no RT Structure Set."]
    if any(beam.geometry.get("kind") != "ct" for beam in case.beams):
        return [], ["The doses are in water: the patient's structures are not drawn over them."]
    if len(own) > 1:
        return [], [f"The case holds {len(own)} RT Structure Sets, and which one counts cannot be known."]
    frame = Item(plan.dataset, "The RT Ion Plan").text("FrameOfReferenceUID")
    try:
        data = read_dicom(read_input(folder, own[0]), f"The RT Structure Set (input {own[0].number})", "RTSTRUCT")
        return structures.read_structures(data, frame)
    except BadInput as problem:
        return [], [str(problem)]


def _dvh(
    case: CaseDose, outlines: Sequence[structures.Structure], left_out: Sequence[str], figures: Figures
) -> List[Block]:
    blocks: List[Block] = [Heading("Structures", new_page=bool(outlines))]
    blocks += [Text(sentence, quiet=True) for sentence in left_out]
    why = one_phantom(case.beams)
    if not outlines or why:
        return [*blocks, Text(f"No dose-volume histogram: {why or 'there are no structures to take it of'}.")]
    doses = {which: added(case.beams, which) for which in WHICH}
    curves: Dict[str, Dict[str, Tuple[Any, Any]]] = {}
    rows: List[Tuple[str, ...]] = []
    for each in outlines:
        for which, grid in doses.items():
            if grid is None:
                continue
            inside = structures.mask(each, grid)
            values = grid.dose_gy[inside]
            if not values.size:
                rows.append((each.name, which, "0", "outside the dose grid", "", "", "", "", ""))
                continue
            volume = values.size * float(np.prod(grid.spacing_mm)) / 1000.0
            found = structures.characteristics(values)
            few = " (few voxels)" if values.size < structures.FEW_VOXELS else ""
            told = [_number(found[key], ".4f") for key in ("mean", "D98", "D95", "D50", "D2")]
            rows.append((each.name + few, which, str(values.size), f"{volume:.1f}", *told))
            curves.setdefault(each.name, {})[which] = structures.volume_histogram(values)
    head = ("structure", "dose", "voxels", "cm³", "mean Gy", "D98", "D95", "D50", "D2")
    if curves:
        blocks.append(figures.block("dvh.png", qa_figures.dvh(curves), "Dose-volume histograms, one fraction"))
    return [*blocks, Table(head, rows, (22, 11, 9, 9, 10, 10, 10, 10, 10), tuple(range(2, 9)))]


def _provenance(
    case: CaseDose, plan: FoundPlan, result: Result, sums: Mapping[str, Any], parameters: Mapping[str, Any]
) -> List[Block]:
    rows: List[Tuple[str, str]] = [
        ("RT Ion Plan, SHA-256", str(case.index["plan"].get("sha256"))),
        ("spot_check.json, tolerances", _flat(case.spots.get("tolerances"))),
    ]
    for beam in case.beams:
        rows.append((f"beam {beam.number}: engine", _flat(beam.summary.get("engine"))))
        rows.append((f"beam {beam.number}: machine", _flat(beam.summary.get("machine"))))
        rows.append((f"beam {beam.number}: geometry", _flat(beam.geometry)))
        rows.append((f"beam {beam.number}: parameters of moquisim", _flat(beam.summary.get("parameters"))))
        rows.append((f"beam {beam.number}: planned spots, SHA-256", str(beam.entry.get("sha256"))))
        for which in WHICH:
            told = beam.of_dose(which)
            if told:
                keys = ("spots_sha256", "npz_sha256", "rtdose_sop_instance_uid", "rtdose_sha256", "seed")
                rows.append((f"beam {beam.number}: {which} dose", _flat({key: told.get(key) for key in keys})))
    rows.append(("parameters of report", _flat(parameters)))
    for which in WHICH:
        if sums.get(which):
            rows.append((f"sum of the beams, {which}", _flat(sums[which])))
    if sums.get("reason"):
        rows.append(("sum of the beams", f"not written: {sums['reason']}"))
    rows.append(("report", f"Python {platform.python_version()}, numpy {np.__version__}"))
    blocks: List[Block] = [Heading("Parameters, identities, versions", new_page=True), Table(("", ""), rows, (26, 74))]
    checks = []
    for beam in case.beams:
        for which in WHICH:
            for check in beam.of_dose(which).get("checks") or []:
                word = "pass" if check.get("passed") is True else "fail"
                checks.append((str(beam.number), which, str(check.get("name")), word, str(check.get("sentence"))))
    if checks:
        blocks.append(Heading("Checks of every dose", 2))
        blocks.append(Table(("beam", "dose", "check", "", "finding"), checks, (7, 11, 22, 9, 51), (0,)))
    if result.verdict.word == NOT_COMPARABLE:
        blocks.append(Text("Not comparable means: the question could not be answered. It is no pass."))
    return [*blocks, Text(NOTICE, quiet=True)]


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _flat(value: Any) -> str:
    """An object as "key value; …" on one line."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_flat(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_flat(each) for each in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)


def _of(found: Mapping[str, Any], key: str, form: str) -> str:
    value = found.get(key)
    return _number(value if isinstance(value, (int, float)) else None, form)


def _number(value: Optional[float], form: str) -> str:
    return "–" if value is None or not np.isfinite(value) else format(value, form)
