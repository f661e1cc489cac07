"""Manifests of variants, and the project's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cprlib.build.progress import SilentProgress
from cprlib.build.series import find_series
from cprlib.build.variants import build_variant, find_variant, load_variants, variants_folder
from cprlib.errors import EnvironmentFailure, UsageError

GOOD = {
    "title": '"one packet gone"',
    "description": '"what a user sees"',
    "leave_out": '["0002", "0003"]',
    "detected_by": '["a-case"]',
    "message": '"lost \\\\d+"',
}
PATCH = "--- a/net/tap.c\n+++ b/net/tap.c\n@@ -1 +1 @@\n-a\n+b\n"


def write(folder: Path, *patches: str, **changes: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {**GOOD, **changes}
    lines = [f"{key} = {value}" for key, value in values.items() if value]
    (folder / "variant.toml").write_text("\n".join(lines) + "\n")
    for patch in patches:
        (folder / patch).write_text(PATCH)
    return folder.parent


def test_a_manifest_is_read(tmp_path: Path) -> None:
    write(tmp_path / "b-two", "2.patch", "1.patch", leave_out="", bases='["10.0"]')
    write(tmp_path / "a-one")
    one, two = load_variants(tmp_path)
    assert (one.name, one.title, one.description) == ("a-one", "one packet gone", "what a user sees")
    assert (one.leave_out, one.patches, one.detected_by) == (("0002", "0003"), (), ("a-case",))
    assert re.search(one.message, "they lost 3")
    assert one.bases[0] == "10.0"
    assert two.patches == (tmp_path / "b-two" / "1.patch", tmp_path / "b-two" / "2.patch")
    assert (two.leave_out, two.bases) == ((), ("10.0",))
    assert find_variant("b-two", tmp_path) == two


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("colour", '"red"', "unknown key"),
        ("title", "", "missing"),
        ("title", "3", "a string is expected, not 3"),
        ("title", '" "', "empty"),
        ("title", '"a\\nb"', "more than one line"),
        ("description", "", "missing"),
        ("detected_by", "", "missing"),
        ("detected_by", "[]", "empty"),
        ("detected_by", '"a-case"', "a list of strings is expected"),
        ("detected_by", '["a", 1]', "a list of strings is expected"),
        ("detected_by", '["a", "a"]', "twice"),
        ("message", "", "missing"),
        ("message", '"("', "no regular expression"),
        ("leave_out", '["0077"]', "0 patches are named so"),
        ("leave_out", "[]", "good build"),
        ("bases", '["9.9"]', "no base '9.9'"),
        ("bases", "[]", "empty"),
        ("patches", '["absent.patch"]', "no 'absent.patch'"),
    ],
)
def test_a_bad_manifest_is_refused_with_file_and_key(tmp_path: Path, key: str, value: str, words: str) -> None:
    write(tmp_path / "bad", **{key: value})
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        load_variants(tmp_path)
    assert str(tmp_path / "bad" / "variant.toml") in str(caught.value)
    assert f"key '{key}'" in str(caught.value)


def test_a_patch_beside_the_manifest_has_to_be_named_or_none(tmp_path: Path) -> None:
    write(tmp_path / "v", "one.patch", "two.patch", patches='["two.patch"]')
    with pytest.raises(UsageError, match=r"one\.patch is beside the manifest"):
        load_variants(tmp_path)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    with pytest.raises(UsageError, match="every folder there is a variant"):
        load_variants(tmp_path)
    with pytest.raises(EnvironmentFailure):
        load_variants(tmp_path / "absent")


def test_broken_toml_and_bad_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "broken", title='"a')
    with pytest.raises(UsageError, match=r"broken/variant\.toml"):
        load_variants(tmp_path)
    write(tmp_path / "other" / "Bad_Name")
    with pytest.raises(UsageError, match="is no name of a variant"):
        load_variants(tmp_path / "other")


def test_an_unknown_variant_is_named_with_those_there_are(tmp_path: Path) -> None:
    write(tmp_path / "a-one")
    for name in ("a-two", "../a-one", ""):
        with pytest.raises(UsageError, match="there are: a-one"):
            find_variant(name, tmp_path)


def test_a_variant_is_built_on_its_bases_only(tmp_path: Path) -> None:
    write(tmp_path / "v", bases='["10.0"]')
    with pytest.raises(UsageError, match=r"it is made for: 10\.0"):
        build_variant(find_variant("v", tmp_path), "10.2", SilentProgress())


def test_the_projects_variants() -> None:
    """Each patch of the series is left out once, in number or in effect, and no two variants are the same build."""
    variants = load_variants()
    assert variants_folder().is_dir()
    for patch in find_series("10.0", True).names:
        assert any(variant.name.startswith(f"without-{patch[:4]}") for variant in variants), patch
    contents = [
        (variant.leave_out, tuple(patch.read_text(encoding="utf-8") for patch in variant.patches))
        for variant in variants
    ]
    assert len(set(contents)) == len(contents)
    assert len({variant.title for variant in variants}) == len(variants)
