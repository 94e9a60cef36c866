"""Safe names: legal on NTFS and Linux, unique where case and composition do not count, and stable."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mqi.manifest import inside, is_unsafe_on_windows, safe_name, safe_relative, unique_names


def short_hash(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8")).hexdigest()[:8]


# (remark, name, safe name)
NAMES = [
    ("plain", "RP.1.2.3.dcm", "RP.1.2.3.dcm"),
    ("beam name", "1G180:TX_2_Dose.dcm", "1G180_TX_2_Dose.dcm"),
    ("spaces inside", "a b  c.txt", "a b  c.txt"),
    ("Korean stays", "전립선 김환자.dcm", "전립선 김환자.dcm"),
    ("decomposed Korean (macOS) is composed", unicodedata.normalize("NFD", "김.dcm"), "김.dcm"),
    ("every forbidden character", '<>:"/\\|?*', "_________"),
    ("shell text is only text", "$(rm -rf ~);&`'{}[]!#%^=+,@", "$(rm -rf ~);&`'{}[]!#%^=+,@"),
    ("controls", "a\nb\tc\0d\x7fe\x85f", "a_b_c_d_e_f"),
    ("characters that reorder or hide", "a\u202egpj.exe\u200b", "a_gpj.exe_"),
    ("bytes that are not UTF-8", "a\udcffb", "a_b"),
    ("trailing dot", "a.", "a_"),
    ("trailing dots and spaces", "a. . ", "a____"),
    ("leading space", " a", "_a"),
    ("leading dot", ".hidden", ".hidden"),
    ("here", ".", "_"),
    ("above", "..", "__"),
    ("nothing", "", "_"),
    ("spaces only", "   ", "___"),
    ("device", "aux", "_aux"),
    ("device in capitals", "NUL", "_NUL"),
    ("device with endings", "con.tar.gz", "_con.tar.gz"),
    ("device with a space", "Com1 .txt", "_Com1 .txt"),
    ("superscript device", "LPT².log", "_LPT².log"),
    ("console", "CONIN$", "_CONIN$"),
    ("not a device", "console", "console"),
    ("not a device either", "com10", "com10"),
    ("a stream is none", "file.txt:stream", "file.txt_stream"),
    ("120 characters", "x" * 120, "x" * 120),
    ("121 characters", "x" * 121, "x" * 111 + "~" + short_hash("x" * 121)),
    ("the ending stays", "y" * 130 + ".dcm", "y" * 107 + "~" + short_hash("y" * 130 + ".dcm") + ".dcm"),
]


@pytest.mark.parametrize(("remark", "name", "safe"), NAMES, ids=[row[0] for row in NAMES])
def test_safe_name(remark: str, name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_long_names_differ_by_their_hash() -> None:
    assert safe_name("x" * 200 + "1") != safe_name("x" * 200 + "2")


RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"} | {
    device + digit for device in ("COM", "LPT") for digit in "0123456789¹²³"
}


def assert_legal(name: str) -> None:
    """Microsoft's "Naming Files, Paths, and Namespaces", and what ext4 takes."""
    assert name
    assert not set(name) & set('<>:"/\\|?*')
    assert all(ord(character) >= 32 for character in name)
    assert not name.endswith((".", " "))
    assert name.split(".")[0].rstrip(" ").upper() not in RESERVED
    assert len(name.encode("utf-16-le")) <= 2 * 120
    assert len(name.encode("utf-8")) <= 200


# Names made of the pieces that matter, and anything.
pieces = st.sampled_from(
    [
        "con",
        "AUX",
        "com1",
        "lpt²",
        ".",
        " ",
        "..",
        ":",
        "/",
        "\\",
        "\n",
        "김",
        "e\u0301",
        "\udc80",
        "x" * 60,
        "😀",
        "~",
    ]
)
hostile = st.one_of(
    st.text(st.characters(), max_size=20), st.lists(pieces, max_size=8).map("".join), st.text(max_size=300)
)


@settings(deadline=None)
@given(hostile)
@example("x" * 119 + "😀")
@example("김" * 119 + ".dcm")
@example("com1" + "\u0323" * 5)
@example("<\u0338")
def test_every_safe_name_is_legal_and_stays(name: str) -> None:
    safe = safe_name(name)
    assert_legal(safe)
    assert safe_name(safe) == safe
    assert safe_name(name) == safe
    assert unicodedata.normalize("NFC", safe) == safe
    assert not is_unsafe_on_windows(safe)


RELATIVE = [
    ("plain", "a/b/c.dcm", "a/b/c.dcm"),
    ("absolute", "/etc/passwd", "etc/passwd"),
    ("climbing", "../../etc/passwd", "__/__/etc/passwd"),
    ("drive", "C:/Windows/x", "C_/Windows/x"),
    ("backslashes are part of a name", "..\\..\\x", ".._.._x"),
    ("unc", "//server/share", "server/share"),
    ("empty parts", "a//b/./c/", "a/b/c"),
    ("device folder", "nul/x", "_nul/x"),
    ("nothing", "", "_"),
    ("only slashes", "///", "_"),
]


@pytest.mark.parametrize(("remark", "path", "safe"), RELATIVE, ids=[row[0] for row in RELATIVE])
def test_safe_relative(remark: str, path: str, safe: str) -> None:
    assert safe_relative(path) == safe


paths = st.lists(hostile, min_size=1, max_size=4).map("/".join)


@settings(deadline=None)
@given(paths)
def test_safe_paths_are_legal_and_stay_below(path: str) -> None:
    safe = safe_relative(path)
    for part in safe.split("/"):
        assert_legal(part)
    assert safe_relative(safe) == safe
    root = Path("/results/run")
    assert root in (root / safe).parents
    assert ".." not in safe.split("/")


def same_file(path: str) -> str:
    """As a file system that ignores case and composition compares."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", path).casefold())


def assert_apart(names: list[str]) -> None:
    """No two names are one file, and none is a folder of another."""
    keys = [same_file(name) for name in names]
    upper = [name.upper() for name in names]
    assert len(set(keys)) == len(keys) == len(set(upper))
    folders = {"/".join(key.split("/")[:length]) for key in keys for length in range(1, len(key.split("/")))}
    assert not folders & set(keys)


UNIQUE = [
    ("nothing to do", ["a", "b/c"], {"a": "a", "b/c": "b/c"}),
    ("a safe name keeps itself", ["a:b", "a_b"], {"a_b": "a_b", "a:b": "a_b~"}),
    ("case", ["Dose.dcm", "dose.dcm"], {"Dose.dcm": "Dose.dcm", "dose.dcm": "dose~"}),
    ("folders that differ in case hold different files", ["A/x", "a/y"], {"A/x": "A/x", "a/y": "a/y"}),
    ("folders that differ in case hold the same name", ["A/x", "a/x"], {"A/x": "A/x", "a/x": "a/x~"}),
    ("a file where a folder is", ["out", "OUT/x"], {"out": "out~", "OUT/x": "OUT/x"}),
    ("absolute and relative", ["/a", "a"], {"a": "a", "/a": "a~"}),
    ("dotless i", ["I", "ı"], {"I": "I", "ı": "ı~"}),
    ("sharp s", ["straße", "strasse"], {"strasse": "strasse", "straße": "straße~"}),
]


@pytest.mark.parametrize(("remark", "paths", "expected"), UNIQUE, ids=[row[0] for row in UNIQUE])
def test_unique_names(remark: str, paths: list[str], expected: dict[str, str]) -> None:
    names = unique_names(paths)
    assert names.keys() == expected.keys()
    for path, name in expected.items():
        # A trailing ~ stands for the hash and the ending.
        assert names[path].startswith(name) if name.endswith("~") else names[path] == name
    assert_apart(list(names.values()))


def test_composition_does_not_make_another_name() -> None:
    names = unique_names(["é.dcm", "e\u0301.dcm"])
    assert names["é.dcm"] == "é.dcm"
    assert names["e\u0301.dcm"].startswith("é~")


colliding = st.lists(
    st.lists(
        st.sampled_from(["a", "A", "a:", "a_", "é", "e\u0301", "ı", "I", "ß", "ss", "b.dcm", "B.DCM"]),
        min_size=1,
        max_size=3,
    ).map("/".join),
    max_size=8,
)


@settings(deadline=None)
@given(st.one_of(colliding, st.lists(paths, max_size=6)), st.integers(0, 9))
def test_unique_names_are_apart_legal_and_depend_on_the_set_alone(given_paths: list[str], seed: int) -> None:
    names = unique_names(given_paths)
    assert names.keys() == set(given_paths)
    assert list(names) == list(dict.fromkeys(given_paths)), "in the order given"
    for name in names.values():
        for part in name.split("/"):
            assert_legal(part)
    assert_apart(list(names.values()))
    shuffled = list(given_paths)
    random.Random(seed).shuffle(shuffled)
    assert unique_names(shuffled) == names
    again = unique_names(names.values())
    assert all(path == name for path, name in again.items()), "what is safe and apart stays"


@settings(deadline=None)
@given(st.lists(hostile, max_size=8))
def test_all_of_them_can_be_written_side_by_side(
    tmp_path_factory: pytest.TempPathFactory, given_names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    names = unique_names(given_names)
    for path, name in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("x", encoding="utf-8", errors="surrogatepass") as stream:
            stream.write(path)
    assert len([file for file in folder.rglob("*") if file.is_file()]) == len(names)


@pytest.mark.skipif(sys.platform == "win32", reason="making links needs a privilege on Windows")
def test_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "root2").mkdir()
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "in").symlink_to(root / "sub")
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "link to root").symlink_to(root)
    for path in ("sub", "sub/new/file", "in/x", "sub/../x"):
        assert inside(root, root / path), path
        assert inside(tmp_path / "link to root", root / path), path
    for path in ("", ".", "..", "../root2", "../root2/x", "sub/../../x", "out", "out/x", "/etc", "a\0b"):
        assert not inside(root, root / path), path
    assert not inside(root, root / "loop" / "x") or os.name == "nt"
    assert not inside(root / "sub", root)
