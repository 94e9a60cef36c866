"""IEC 61217 and DICOM, as tables: where a beam comes from, and where its x and y point in the patient."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from steplib.geometry import PATIENT_POSITIONS, BeamFrame, at_isocentre, gantry_to_patient
from steplib.report import BadInput

LEFT, RIGHT = (1, 0, 0), (-1, 0, 0)
BACK, FRONT = (0, 1, 0), (0, -1, 0)
HEAD, FEET = (0, 0, 1), (0, 0, -1)


@pytest.mark.parametrize(
    ("position", "gantry", "couch", "source", "x", "y", "remark"),
    [
        ("HFS", 0, 0, FRONT, LEFT, HEAD, "from above onto a supine patient"),
        ("HFS", 90, 0, LEFT, BACK, HEAD, "from Xf, the patient's left; Xg now points down"),
        ("HFS", 180, 0, BACK, RIGHT, HEAD, "from below"),
        ("HFS", 270, 0, RIGHT, FRONT, HEAD, ""),
        ("HFS", 360, 0, FRONT, LEFT, HEAD, "once around"),
        ("HFS", 0, 90, FRONT, FEET, LEFT, "the couch turns counterclockwise: the head goes to -Xf, so Xg shows the feet"),
        ("HFS", 90, 90, FEET, BACK, LEFT, "the vertex lies at -Xf, the source at Xf"),
        ("HFS", 90, 270, HEAD, BACK, RIGHT, "a vertex field"),
        ("HFP", 0, 0, BACK, RIGHT, HEAD, "prone: from above is from behind"),
        ("FFS", 0, 0, FRONT, RIGHT, FEET, "feet first: the gantry is at the feet"),
        ("FFP", 0, 0, BACK, LEFT, FEET, ""),
        ("FFS", 90, 0, RIGHT, BACK, FEET, ""),
    ],
)
def test_axes_in_the_patient(
    position: str, gantry: float, couch: float, source: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...], remark: str
) -> None:
    rotation = gantry_to_patient(gantry, couch, position)
    assert rotation.T.tolist() == [list(x), list(y), list(source)], remark


@given(st.floats(-720, 720), st.floats(-720, 720), st.sampled_from(sorted(PATIENT_POSITIONS)))
def test_every_frame_is_a_rotation(gantry: float, couch: float, position: str) -> None:
    rotation = gantry_to_patient(gantry, couch, position)
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    frame = BeamFrame.of(gantry, couch, (1.0, -2.0, 3.0), position)
    points = np.array([[5.0, 6.0, 7.0], [0.0, 0.0, 0.0]])
    assert np.allclose(frame.to_gantry(frame.to_patient(points)), points)
    assert np.allclose(frame.to_patient(points)[1], (1.0, -2.0, 3.0))


def test_coordinate_is_that_of_to_gantry() -> None:
    frame = BeamFrame.of(37.0, 12.0, (1.0, 2.0, 3.0))
    axes = (np.array([0.0, 4.0]), np.array([1.0, 2.0, 3.0]), np.array([-1.0, 9.0, 5.0, 6.0]))
    for axis in range(3):
        values = frame.coordinate(axis, axes)
        assert values.shape == (4, 3, 2)
        assert values[3, 2, 1] == pytest.approx(frame.to_gantry((4.0, 3.0, 6.0))[axis])


def test_a_ray_is_followed_to_the_isocentre() -> None:
    """A spot aimed at 100 mm passes 500 mm upstream at 100 x 1500 / 2000."""
    assert at_isocentre(75.0, 500.0, 2000.0) == pytest.approx(100.0)


def test_unknown_position_is_refused() -> None:
    with pytest.raises(BadInput, match="none of HFS, HFP, FFS, FFP"):
        gantry_to_patient(0.0, 0.0, "HFDR")
