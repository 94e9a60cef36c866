"""read_plan: finds the one RT Ion Plan by its contents; every other folder gets a sentence and a hint."""

from __future__ import annotations

import logging
import os
import random
import shutil
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ion_plans import CT, PHOTON, UID, beam, clinical, dataset, encoded, write
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from mqi.errors import IntakeProblem
from mqi.intake.files import file_stat
from mqi.intake.plan import PlanBeam, PlanFacts, read_plan
from mqi.intake.unit import FileStat

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def files_of(folder: Path) -> list[FileStat]:
    return [
        file_stat(path.relative_to(folder).as_posix(), path.lstat())
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    ]


def read(folder: Path) -> PlanFacts:
    return read_plan(folder, files_of(folder))


def refusal(folder: Path) -> IntakeProblem:
    with pytest.raises(IntakeProblem) as caught:
        read(folder)
    assert str(caught.value).endswith(".")
    assert caught.value.hint
    assert "Canary" not in str(caught.value) + caught.value.hint
    return caught.value


def test_a_clinical_plan(tmp_path: Path) -> None:
    plan = clinical()
    write(tmp_path / "sub" / "RP.1.dcm", plan)
    (tmp_path / "PlanInfo.txt").write_text("DICOM_PATIENT_ID,P001\n", encoding="utf-8")
    facts = read(tmp_path)
    assert facts == PlanFacts(
        path="sub/RP.1.dcm",
        sop_instance_uid=str(plan.SOPInstanceUID),
        beams=(PlanBeam(2, "1G280:TX"), PlanBeam(3, "1G380:TX"), PlanBeam(4, "1G480:TX")),
        machine="G1",
        setup_beams=(PlanBeam(1, "SETUP"),),
        patient_id="P001",
    )


# (remark, how the file is written, what it is called)
ENCODINGS = [
    ("explicit lengths", {}, "RP.dcm"),
    ("implicit", {"implicit": True}, "RP.dcm"),
    ("undefined lengths", {"undefined_lengths": True}, "RP.dcm"),
    ("implicit, undefined lengths", {"implicit": True, "undefined_lengths": True}, "RP.dcm"),
    ("deflated", {"syntax": DeflatedExplicitVRLittleEndian}, "RP.dcm"),
    ("big endian, retired but met in archives", {"syntax": ExplicitVRBigEndian}, "RP.dcm"),
    ("no ending in its name", {}, "RP"),
    ("another ending", {}, "plan.txt"),
    ("upper case", {}, "RP.DCM"),
    ("no preamble, explicit", {"preamble": False}, "RP.dcm"),
    ("no preamble, implicit", {"preamble": False, "implicit": True}, "RP.dcm"),
]


@pytest.mark.parametrize(("remark", "options", "name"), ENCODINGS, ids=[row[0] for row in ENCODINGS])
def test_however_it_is_written(tmp_path: Path, remark: str, options: dict, name: str) -> None:
    write(tmp_path / name, clinical(), **options)
    assert [beam.number for beam in read(tmp_path).beams] == [2, 3, 4]


def test_the_plan_is_found_among_other_files(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"CT{number}.dcm", dataset(CT, "CT", None))
    write(tmp_path / "AAA_photon.dcm", dataset(PHOTON, beams=None))
    write(tmp_path / "RD.dcm", dataset("1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE", None))
    write(tmp_path / "zzz", clinical())
    (tmp_path / "noise.ptn").write_bytes(random.Random(1).randbytes(4096))
    (tmp_path / "empty.txt").touch()
    assert read(tmp_path).path == "zzz"


def test_an_unusual_class_with_ion_beams_is_an_ion_plan(tmp_path: Path) -> None:
    write(tmp_path / "RP.dcm", dataset("1.2.840.10008.5.1.4.1.1.481.9999", beams=[beam(1)]))
    assert read(tmp_path).beams == (PlanBeam(1, ""),)


def test_other_dicom_files_are_not_read_to_their_end(tmp_path: Path) -> None:
    write(tmp_path / "RP.dcm", clinical())
    big = write(tmp_path / "CT.dcm", dataset(CT, "CT", None))
    with big.open("ab") as stream:
        stream.truncate(4 * 2**30)  # sparse
    assert read(tmp_path).path == "RP.dcm"


# --- beams -----------------------------------------------------------------------------------------------

DELIVERY = [
    ("treatment", beam(1, "A", "TREATMENT"), True),
    ("setup", beam(1, "A", "SETUP"), False),
    ("portal image", beam(1, "A", "OPEN_PORTFILM"), False),
    ("the attribute counts, not the name", beam(1, "SETUP", "TREATMENT"), True),
    ("no attribute, plain name", beam(1, "1G180:TX", None), True),
    ("no attribute, name", beam(1, "setup ", None), False),
    ("no attribute, description", beam(1, "A", None, BeamDescription="Site Setup"), False),
    ("empty attribute counts as none", beam(1, "SETUP", ""), False),
    ("a name that only starts like it", beam(1, "SETUP2", None), True),
]


@pytest.mark.parametrize(("remark", "item", "counts"), DELIVERY, ids=[row[0] for row in DELIVERY])
def test_which_beams_count(tmp_path: Path, remark: str, item: Dataset, counts: bool) -> None:
    write(tmp_path / "RP.dcm", dataset(beams=[item, beam(7, "always")]))
    facts = read(tmp_path)
    assert [beam.number for beam in facts.beams] == ([1, 7] if counts else [7])
    assert [beam.number for beam in facts.setup_beams] == ([] if counts else [1])


def test_beams_are_known_by_number_not_by_position(tmp_path: Path) -> None:
    beams = [beam(5, "five"), beam(1, "SETUP", "SETUP"), beam(3, "three"), beam(0, "zero")]
    write(tmp_path / "RP.dcm", dataset(beams=beams))
    assert read(tmp_path).beams == (PlanBeam(0, "zero"), PlanBeam(3, "three"), PlanBeam(5, "five"))


def test_names_as_the_planning_system_wrote_them(tmp_path: Path) -> None:
    write(tmp_path / "RP.dcm", dataset(beams=[beam(1, "전립선 1G180:TX"), beam(2, "a/b\\c")]))
    assert [beam.name for beam in read(tmp_path).beams] == ["전립선 1G180:TX", "a/b\\c"]


# --- folders that are no case ----------------------------------------------------------------------------


NO_DICOM = "There is no DICOM file in the folder."
NOT_DICOM = "A file called *.dcm is not a DICOM file."
DAMAGED = "A DICOM file is damaged or cut off."
NO_PLAN = "There is no RT Ion Plan among the DICOM files of the folder."
NOT_ION = "The plan in the folder is not an RT Ion Plan: it is for photons, electrons or a source."
PLANS = "There are {} RT Ion Plans in the folder; mqi does not guess which one was delivered."
NO_BEAMS = "The RT Ion Plan has no beams."
NO_TREATMENT = "None of the beams of the RT Ion Plan (1) is a treatment beam."
TWICE = "The RT Ion Plan has more than one beam with the number 2."
NO_NUMBER = "A beam of the RT Ion Plan has no usable beam number."
MACHINES = "The beams of the RT Ion Plan are for different machines."
SETUP = beam(2, "SETUP", "SETUP")


def plan_of(*beams: Dataset) -> Dataset:
    return dataset(beams=beams)


# (remark, what is in the folder, the sentence, a part of the hint)
REFUSALS: list[tuple[str, dict[str, Dataset | bytes], str, str]] = [
    ("no files at all", {}, NO_DICOM, "RT Ion Plan"),
    ("no DICOM", {"a.ptn": b"x" * 500}, NO_DICOM, "RT Ion Plan"),
    ("text named like DICOM", {"RP.dcm": b"hello"}, NOT_DICOM, "'RP.dcm'"),
    ("empty file named like DICOM", {"RP.DCM": b""}, NOT_DICOM, "'RP.DCM'"),
    ("zeros", {"RP.dcm": bytes(4096)}, NOT_DICOM, "'RP.dcm'"),
    ("even beside a plan", {"A.dcm": b"x" * 999, "RP.dcm": clinical()}, NOT_DICOM, "'A.dcm'"),
    ("preamble and nothing else", {"x": bytes(128) + b"DICM"}, DAMAGED, "'x'"),
    ("preamble and noise", {"x": bytes(128) + b"DICM" + b"\xff" * 99}, DAMAGED, "'x'"),
    ("CT only", {"CT.dcm": dataset(CT, "CT", None)}, NO_PLAN, "RT Ion Plan"),
    ("photons", {"RP.dcm": dataset(PHOTON, beams=None)}, NOT_ION, "RT Ion Plan"),
    ("photons by its own word", {"RP.dcm": dataset(PHOTON, beams=[beam(1)])}, NOT_ION, "RT Ion Plan"),
    ("two plans", {"RP1.dcm": clinical(), "2": clinical()}, PLANS.format(2), "'2', 'RP1.dcm'"),
    ("five plans", {f"{n}.dcm": clinical() for n in range(5)}, PLANS.format(5), "and 2 more"),
    ("no beams", {"RP.dcm": plan_of()}, NO_BEAMS, "again"),
    ("no beam sequence", {"RP.dcm": dataset(beams=None)}, NO_BEAMS, "again"),
    ("setup beams only", {"RP.dcm": plan_of(SETUP)}, NO_TREATMENT, "TREATMENT"),
    ("a number twice", {"RP.dcm": plan_of(beam(2), beam(3), beam(2))}, TWICE, "again"),
    ("twice, once as setup", {"RP.dcm": plan_of(SETUP, beam(2))}, TWICE, "again"),
    ("no number", {"RP.dcm": plan_of(beam(1), beam(None))}, NO_NUMBER, "again"),
    ("a negative number", {"RP.dcm": plan_of(beam(-1))}, NO_NUMBER, "again"),
    ("several machines", {"RP.dcm": plan_of(beam(1), beam(2, machine="G2"))}, MACHINES, "G1, G2"),
]


@pytest.mark.parametrize(
    ("remark", "contents", "sentence", "hint"), REFUSALS, ids=[row[0] for row in REFUSALS]
)
def test_folders_that_are_no_case(
    tmp_path: Path, remark: str, contents: dict[str, Dataset | bytes], sentence: str, hint: str
) -> None:
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else encoded(content))
    problem = refusal(tmp_path)
    assert str(problem) == sentence
    assert hint in problem.hint


def test_an_unusable_number_in_the_file(tmp_path: Path) -> None:
    content = encoded(dataset(beams=[beam(12)]))
    at = content.index(b"\x0a\x30\xc0\x00IS\x02\x0012")
    for digits in (b"ab", b"\xff\xff", b"1\\", b"  "):
        (tmp_path / "RP.dcm").write_bytes(content[: at + 8] + digits + content[at + 10 :])
        refusal(tmp_path)


def test_a_plan_beyond_any_size_is_not_read_into_memory(tmp_path: Path) -> None:
    with write(tmp_path / "RP.dcm", clinical()).open("ab") as stream:
        stream.truncate(2**33)  # sparse
    assert "larger than" in str(refusal(tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_what_was_a_file_when_it_was_listed(tmp_path: Path) -> None:
    plan = write(tmp_path / "RP.dcm", clinical())
    files = files_of(tmp_path)
    for change in (
        lambda: plan.unlink(),
        lambda: os.mkfifo(plan),  # reading it would wait for ever
        lambda: (plan.unlink(), plan.symlink_to("/etc/passwd")),
        lambda: (plan.unlink(), plan.mkdir()),
    ):
        change()
        with pytest.raises(IntakeProblem) as caught:
            read_plan(tmp_path, files)
        assert "cannot be read" in str(caught.value)
        assert "'RP.dcm'" in caught.value.hint
        assert "RP.dcm" not in str(caught.value)


# --- damaged files ---------------------------------------------------------------------------------------

SHAPES = [row[:2] for row in ENCODINGS[:4]]


@pytest.mark.parametrize(("remark", "options"), SHAPES, ids=[row[0] for row in SHAPES])
def test_a_plan_cut_off_anywhere_never_loses_beams_silently(
    tmp_path: Path, remark: str, options: dict
) -> None:
    """pydicom reads a file that ends too early as a shorter one, with fewer beams or none."""
    content = encoded(clinical(1), **options)
    (tmp_path / "RP.dcm").write_bytes(content)
    whole = read(tmp_path)
    files = files_of(tmp_path)
    accepted = []
    for length in sorted({*range(0, len(content), 3), *range(len(content) - 60, len(content))}):
        (tmp_path / "RP.dcm").write_bytes(content[:length])
        try:
            facts = read_plan(tmp_path, files)
        except IntakeProblem:
            continue
        assert facts == whole
        accepted.append(length)
    # Only an end between two elements, with the beams before it, cannot be told from a whole file.
    assert len(accepted) <= 1


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_damage_is_a_plan_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(encoded(clinical(2), **data.draw(st.sampled_from([row[1] for row in ENCODINGS]))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + 1] = data.draw(st.binary(max_size=6))
    (folder / "RP.dcm").write_bytes(content)
    try:
        facts = read(folder)
        numbers = [beam.number for beam in facts.beams]
        assert numbers and numbers == sorted(set(numbers)) and facts.sop_instance_uid
    except IntakeProblem as problem:
        assert problem.hint
    finally:
        shutil.rmtree(folder)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, marked: bool
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "x.dcm").write_bytes((bytes(128) + b"DICM") * marked + content)
    refusal(folder)
    shutil.rmtree(folder)


def test_nothing_of_the_patient_is_logged_or_warned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    content = encoded(clinical(), undefined_lengths=True)
    # An identifier that is none is what pydicom likes to quote.
    strange = content.replace(UID.encode(), b"Canary".ljust(len(UID), b"x"))
    folder = tmp_path / "Canary"
    folder.mkdir()
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        for case in (content[:200], content[:400], content[:-30], content, strange):
            (folder / "Canary.dcm").write_bytes(case)
            try:
                read(folder)
            except IntakeProblem as problem:
                assert "Canary" not in str(problem)
    assert not raised
    assert "Canary" not in caplog.text
    assert capfd.readouterr() == ("", "")


# --- plans of real planning systems (phantoms) -----------------------------------------------------------

REAL = [
    ("dcpt-headphantom", [(1, "Field 1"), (2, "Field 2"), (3, "Field 3")], "TR3"),
    ("dcpt-let-plans/plan01_sobp", [(1, "Field 1")], "TR2"),
    ("dcpt-let-plans/plan02_mono", [(1, "Field 1")], "TR2"),
    ("dcpt-let-plans/plan05_sobp_3d", [(1, "SOBP2")], "TR3"),
    ("dcpt-let-plans/plan06_sobp_4d", [(1, "4_SOBP_2Gy")], "TR3"),
]


@pytest.mark.parametrize(("folder", "beams", "machine"), REAL, ids=[row[0] for row in REAL])
def test_real_plans(folder: str, beams: list[tuple[int, str]], machine: str) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip("the phantom data are not here (../shared/data)")
    facts = read(DATA / folder)
    assert [(beam.number, beam.name) for beam in facts.beams] == beams
    assert facts.machine == machine
    assert facts.sop_instance_uid.startswith("1.2.")


def test_four_real_plans_in_one_folder() -> None:
    if not DATA.is_dir():
        pytest.skip("the phantom data are not here (../shared/data)")
    assert "4 RT Ion Plans" in str(refusal(DATA / "dcpt-let-plans"))
