"""The private case that moqui reads: one plan with one beam, a CT or a log per layer, and the beam-model file.

Nothing of the original DICOM reaches the engine. The plan is written anew with beam number 1 (file names follow the
beam's place, not its number), control points in pairs (every odd one is discarded), and weights that are numbers of
histories, a quarter too large so that rounding down gives exactly them (weights are divided and cut off). Energies
in it are the mean energies of the beam model, since moqui interpolates some columns over one and some over the other.

The spot that comes first gets a single history, because its random numbers ignore the seed; so every batch is
independent of the others but for that one proton.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from ..phantom import AIR_HU, Phantom
from ..report import BadInput
from .base import Task

BEAM_NAME = "BEAM"
# The source plane lies this far upstream of the snout position.
_SOURCE_BEHIND_SNOUT_MM = 50.0
# Thickness of PMMA per thickness of water; measured: 40 mm of water pull the range back by 40.2 mm.
_WATER_PER_SHIFTER = 1.15
_CT_IMAGE, _ION_PLAN = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.481.8"


@dataclass(frozen=True)
class Histories:
    """Histories of one batch: place in the task's spots, and how many, in the order that moqui gets them."""

    place: Any
    count: Any

    @property
    def total(self) -> int:
        """All of them."""
        return int(self.count.sum())


def share_out(task: Task, batch: int) -> Histories:
    """Whole numbers of histories in proportion to the spots' protons; the expectation is exact in every batch.

    Systematic sampling (Madow 1949): one random offset, then equal steps through the cumulated protons.
    BadInput when a batch has fewer than ten histories.
    """
    total = -(-task.primaries // task.batches)
    if total < 10:
        raise BadInput("moqui needs more primaries: fewer than ten histories are left for a batch.")
    offset = np.random.default_rng(task.seed + batch).random()
    edges = np.concatenate([[0.0], np.cumsum(task.spots.protons)])
    marks = np.floor(edges / edges[-1] * total + offset)
    count = np.diff(marks).astype(int)
    place = np.flatnonzero(count)
    count = count[place]
    # In layers, since energies belong to control points; stable, so that spots stay in order.
    order = np.argsort(task.spots.layer[place], kind="stable")
    place, count = place[order], count[order]
    if count[0] > 1:
        place = np.concatenate([place[:1], place])
        count = np.concatenate([[1], [count[0] - 1], count[1:]])
    return Histories(place, count)


def layers(task: Task, histories: Histories) -> List[Tuple[float, Any]]:
    """(nominal energy MeV, places in `histories`) per layer, in order."""
    of_spot = task.spots.layer[histories.place]
    starts = np.flatnonzero(np.diff(of_spot, prepend=of_spot[0] - 1))
    ends = [*starts[1:], len(of_spot)]
    return [
        (float(task.spots.energy_mev[histories.place[start]]), np.arange(start, end))
        for start, end in zip(starts, ends)
    ]


def write_beam_model(task: Task, path: Path) -> None:
    """The beam-model file: one row per mean energy of the plan, with one more on either side.

    moqui's spots have no correlation of size and divergence. The divergence is kept and the size at the source chosen
    so that the size at the isocentre, in vacuum, is the beam model's. BadInput where there is no such size.
    """
    source = task.model.reference_plane_mm
    rows: List[Tuple[float, ...]] = []
    for energy in np.unique(task.spots.energy_mev):
        row = task.model.at(float(energy))
        sizes = []
        for size, divergence in zip(row.size_at(source, 0.0), (row.divergence_x_rad, row.divergence_y_rad)):
            square = size**2 - (divergence * source) ** 2
            if square <= 0.01:
                raise BadInput(
                    f"The beam model's spot at {energy:g} MeV cannot be given to moqui: it is too narrow."
                )
            sizes.append(square**0.5)
        rows.append(
            (
                row.mean_mev,
                row.mean_mev,
                row.sigma_mev,
                *sizes,
                row.divergence_x_rad,
                row.divergence_y_rad,
                1.0,
            )
        )
    below, above = (rows[0][0] - 1.0, *rows[0][1:]), (rows[-1][0] + 1.0, *rows[-1][1:])
    gap = 0.0
    lines = ["[geometry]", f"SAD(mm) {task.source_mm[0]:g} {task.source_mm[1]:g}", "rangeshifter(mm) 400 400"]
    shifter: List[str] = []
    if task.shifter is not None:
        thickness = task.shifter.wet_mm / _WATER_PER_SHIFTER
        # The shifter's centre is at snout - thickness / 2 - gap.
        gap = source - _SOURCE_BEHIND_SNOUT_MM - task.shifter.isocentre_distance_mm - thickness
        if gap < 0.0:
            raise BadInput("The range shifter would stand in front of moqui's beam source.")
        shifter = ["[rangeshifter_thickness]", f'"SHIFTER" {thickness:.4f}']
    lines += [f"rangeshifter_snout_gap(mm) {gap:.4f}", "aperture(mm) 400 400", *shifter, "[spot]"]
    lines += [" ".join(f"{value:.9g}" for value in row) for row in (below, *rows, above)]
    lines += ["[time]", "I(nA) 2.0", "E(sec) 1.0", "dT_up(ms) 1.0", "dT_down(ms) 1.0", "set_x(ms) 1.0"]
    lines += ["set_y(ms) 1.0", "velocity_x(m/sec) 10.0", "velocity_y(m/sec) 10.0"]
    path.write_bytes(("\n".join(lines) + "\n").encode("ascii"))


def padded(phantom: Phantom) -> Phantom:
    """The phantom with air on the far side in x until it is as wide as deep: otherwise moqui corrupts its memory."""
    nz, ny, nx = phantom.hu.shape
    if ny <= nx:
        return phantom
    hu = np.full((nz, ny, ny), AIR_HU, dtype=np.float32)
    hu[:, :, :nx] = phantom.hu
    return Phantom(
        phantom.kind,
        hu,
        phantom.origin_mm,
        phantom.spacing_mm,
        phantom.density_table,
        phantom.material_table,
        phantom.facts,
    )


def write_ct(phantom: Phantom, folder: Path) -> None:
    """The phantom as axial CT slices: signed 16 bit, HFS, slice thickness = spacing, square pixels."""
    dx, dy, dz = phantom.spacing_mm
    if abs(dx - dy) > 1e-6:
        raise BadInput("moqui needs voxels that are square in x and y.")
    values = np.clip(np.rint(phantom.hu), -1024, 3071).astype("<i2")
    nz, ny, nx = values.shape
    for place in range(nz):
        image = _dataset(_CT_IMAGE, f"2.25.{1000 + place}")
        image.Modality = "CT"
        image.SeriesInstanceUID = "2.25.2"
        image.InstanceNumber = place + 1
        image.PatientPosition = "HFS"
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        z = phantom.origin_mm[2] + place * dz
        image.ImagePositionPatient = [f"{value:.10g}" for value in (*phantom.origin_mm[:2], z)]
        image.PixelSpacing = [f"{dy:.10g}", f"{dx:.10g}"]
        image.SliceThickness = f"{dz:.10g}"
        image.Rows, image.Columns = ny, nx
        image.SamplesPerPixel = 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 1
        image.RescaleSlope, image.RescaleIntercept = "1", "0"
        image.PixelData = values[place].tobytes()
        image["PixelData"].VR = "OW"
        image.save_as(str(folder / f"ct_{place:04d}.dcm"), enforce_file_format=True)


def write_plan(task: Task, histories: Histories, path: Path) -> None:
    """The RT Ion Plan: beam 1, with a pair of control points per layer."""
    from pydicom.dataset import Dataset

    frame = task.frame
    points: List[Dataset] = []
    weights_so_far = 0.0
    for energy, places in layers(task, histories):
        spots = histories.place[places]
        weights = [float(count) + 0.25 for count in histories.count[places]]
        for carried in (weights, [0.0] * len(weights)):
            point = Dataset()
            point.ControlPointIndex = len(points)
            point.CumulativeMetersetWeight = f"{weights_so_far:.9g}"
            point.NominalBeamEnergy = f"{task.model.at(energy).mean_mev:.9g}"
            point.ScanSpotTuneID = "1.0"
            point.NumberOfScanSpotPositions = len(spots)
            point.ScanSpotPositionMap = [
                float(value) for spot in spots for value in (task.spots.x_mm[spot], task.spots.y_mm[spot])
            ]
            point.ScanSpotMetersetWeights = carried
            point.ScanningSpotSize = [10.0, 10.0]
            point.NumberOfPaintings = 1
            points.append(point)
            weights_so_far += sum(carried)
    _first_point(task, points[0])
    beam = Dataset()
    beam.TreatmentMachineName = "MQI"
    beam.BeamNumber = 1
    beam.BeamName = BEAM_NAME
    beam.BeamType = "STATIC"
    beam.RadiationType = "PROTON"
    beam.ScanMode = "MODULATED"
    beam.TreatmentDeliveryType = "TREATMENT"
    beam.PrimaryDosimeterUnit = "MU"
    beam.VirtualSourceAxisDistances = [float(value) for value in task.source_mm]
    for keyword in ("Wedges", "Compensators", "Boli", "Blocks", "LateralSpreadingDevices", "RangeModulators"):
        setattr(beam, f"NumberOf{keyword}", 0)
    beam.NumberOfRangeShifters = 0 if task.shifter is None else 1
    if task.shifter is not None:
        shifter = Dataset()
        shifter.RangeShifterNumber, shifter.RangeShifterID, shifter.RangeShifterType = 1, "SHIFTER", "BINARY"
        beam.RangeShifterSequence = [shifter]
    beam.FinalCumulativeMetersetWeight = f"{weights_so_far:.9g}"
    beam.NumberOfControlPoints = len(points)
    beam.IonControlPointSequence = points
    plan = _dataset(_ION_PLAN, "2.25.1")
    plan.Modality = "RTPLAN"
    plan.RTPlanLabel = "MQI"
    plan.SeriesInstanceUID = "2.25.3"
    reference = Dataset()
    reference.ReferencedBeamNumber, reference.BeamMeterset = 1, f"{weights_so_far:.9g}"
    group = Dataset()
    group.FractionGroupNumber, group.NumberOfFractionsPlanned, group.NumberOfBeams = 1, 1, 1
    group.NumberOfBrachyApplicationSetups = 0
    group.ReferencedBeamSequence = [reference]
    plan.FractionGroupSequence = [group]
    setup = Dataset()
    setup.PatientSetupNumber, setup.PatientPosition = 1, "HFS"
    plan.PatientSetupSequence = [setup]
    beam.ReferencedPatientSetupNumber = 1
    plan.IonBeamSequence = [beam]
    if frame.couch_deg % 360.0:
        raise BadInput(
            "moqui's handling of a turned couch is not verified: use gantry: zero, or engine: mcsquare."
        )
    plan.save_as(str(path), enforce_file_format=True)


def _first_point(task: Task, point: Any) -> None:
    """Where everything stands: read from the first control point only."""
    from pydicom.dataset import Dataset

    point.GantryAngle = f"{task.frame.gantry_deg:.9g}"
    point.GantryRotationDirection = "NONE"
    point.BeamLimitingDeviceAngle = point.PatientSupportAngle = "0"
    point.TableTopPitchAngle = point.TableTopRollAngle = 0.0
    point.IsocenterPosition = [f"{value:.9g}" for value in task.frame.isocentre_mm]
    point.SnoutPosition = task.model.reference_plane_mm - _SOURCE_BEHIND_SNOUT_MM
    if task.shifter is not None:
        setting = Dataset()
        setting.ReferencedRangeShifterNumber = 1
        setting.RangeShifterSetting = "IN"
        setting.IsocenterToRangeShifterDistance = task.shifter.isocentre_distance_mm
        setting.RangeShifterWaterEquivalentThickness = task.shifter.wet_mm
        point.RangeShifterSettingsSequence = [setting]


def write_logs(task: Task, histories: Histories, folder: Path) -> None:
    """One CSV per layer, `NNN_EEE.EEMeV.csv` (read in the order of the text), rows `time,x,y,count,` with the comma."""
    folder.mkdir(parents=True)
    for number, (energy, places) in enumerate(layers(task, histories), 1):
        rows = [
            f"0,{task.spots.x_mm[spot]:.4f},{task.spots.y_mm[spot]:.4f},{count},"
            for spot, count in zip(histories.place[places], histories.count[places])
        ]
        name = f"{number:03d}_{energy:06.2f}MeV.csv"
        (folder / name).write_bytes(("\n".join(rows) + "\n").encode("ascii"))


def phantom_values(task: Task) -> Tuple[Dict[str, int], int]:
    """The clinical dialect's phantom keys, and how many planes of air lie in front of the water.

    Its phantom is all water, stands in the gantry system with the beam along -z, and has whole millimetres.
    """
    phantom, frame = task.phantom, task.frame
    if phantom.kind != "water" or frame.gantry_deg or frame.couch_deg:
        raise BadInput(
            "moqui's clinical dialect computes in its own phantom: use geometry: water and gantry: zero."
        )
    step = phantom.spacing_mm[0]
    air = int(np.count_nonzero(phantom.hu[0, :, 0] < -999.5))
    water = phantom.hu[:, air:, :]
    corner = [place - each - step / 2.0 for place, each in zip(phantom.origin_mm, frame.isocentre_mm)]
    nz, ny, nx = water.shape
    depth = corner[1] + (air + ny) * step
    whole = [corner[0], corner[2], -depth]
    if (
        step != int(step)
        or not np.all(np.abs(water) < 0.5)
        or any(abs(one - round(one)) > 1e-6 for one in whole)
    ):
        raise BadInput(
            "moqui's clinical dialect needs a grid_mm of whole millimetres that divides isocentre_depth_mm."
        )
    values = {"PhantomDimX": nx, "PhantomDimY": nz, "PhantomDimZ": ny}
    values.update({f"PhantomUnit{axis}": int(step) for axis in "XYZ"})
    values.update({f"PhantomPosition{axis}": round(one) for axis, one in zip("XYZ", whole)})
    return values, air


def _dataset(sop_class: str, uid: str) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    dataset.PatientName = dataset.PatientID = "mqi"
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = "2.25.4", "2.25.5"
    return dataset
