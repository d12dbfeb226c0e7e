"""Fails when docs/features.md shows a feature or a family that does not work as it says, or a page is stale.

Required: the declared feature is there; the family of the page, as two files in a copy of the project, passes
the whole battery; the page of families is what their files say, and no setting is without a meaning.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec.inspect import StructType

from contracts.events import ACTIONS
from contracts.scenario import load_scenario
from contracts.scenario_reference import described
from features.declared import Settings, kinds_of_families, plan_from
from features.families_reference import page

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.M | re.S)


def test_the_published_page_is_what_the_families_say() -> None:
    published = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert published == page(), "run `python -m features.families_reference > docs/families.md`"


def test_every_setting_has_a_meaning() -> None:
    silent = []
    for name, kind in [("features", Settings), *kinds_of_families().items()]:
        struct = msgspec.inspect.type_info(kind)
        assert isinstance(struct, StructType)
        silent += [f"{name}.{field}" for field, meaning in described(struct)[1].items() if not meaning]
    assert silent == []


def test_the_feature_of_your_own_is_a_declaration(tmp_path: Path) -> None:
    """One column more, of the name that the page says."""
    (declared,) = blocks("toml")
    file = tmp_path / "sale.toml"
    file.write_text(declared)
    names = plan_from(load_scenario(file).features, ACTIONS).names
    before, last = declared.rsplit("[[features.counts]]", 1)
    assert 'keys = ["item_id", "context.device"]' in last
    file.write_text(before)
    others = plan_from(load_scenario(file).features, ACTIONS).names
    assert set(names) - set(others) == {"item_id*context.device.click/impression.600s"}
    assert len(names) == 1 + len(others)


@pytest.mark.ordinary_sizes
def test_the_family_of_your_own_is_two_files(tmp_path: Path) -> None:
    """In a copy of the project, through the battery of all families."""
    family, reference = blocks("python")
    for folder in ("features", "contracts", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "features" / "families" / "reloaded.py").write_text(family)
    (tmp_path / "tests" / "unit" / "features" / "reference_reloaded.py").write_text(reference)
    ran = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                "-rA",
                "-k",
                "reloaded or every_family",
            ),
            "tests/unit/features/test_families.py",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert len(re.findall(r"^PASSED .*\[reloaded(?:\.short)?\]$", ran.stdout, re.M)) == 10
    assert "reloaded" not in kinds_of_families(), "the copy was tested, not this tree"
