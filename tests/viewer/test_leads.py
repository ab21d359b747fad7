"""The page's list of leads: each lead lights up its pages."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import memory_visualizer
from memory_visualizer import viewer
from memory_visualizer.leads import LEADS, leads_so_far
from memory_visualizer.printable import printable
from tests.synth import forge, profiles
from tests.synth.memory import PAGE_SIZE
from tests.viewer.page import fragment_of, lit_frames

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_a_lead_lights_its_pages(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    forge(tmp_path / "dump", profiles()["Win7SP1x64"], names=["<b>'\x01"])
    snapshot = memory_visualizer.open(tmp_path / "dump")
    viewer.write_page(tmp_path / "page.html", snapshot)
    leads = leads_so_far(snapshot).found
    page = open_page(tmp_path / "page.html")
    page.get_by_role("tab", name="Leads").click()
    assert page.locator("#lead-note").is_visible()
    rows = page.locator("#lead-list tbody tr")
    shown = [row.locator("bdi").inner_text() for row in rows.all()]
    assert shown == [printable(lead.reason) for lead in leads]
    assert any("<b>'\\x01" in text for text in shown)
    for number, lead in enumerate(leads):
        row = rows.nth(number)
        assert row.get_attribute("title") == LEADS[lead.kind]
        assert row.locator("td").nth(1).inner_text() == f"{len(lead.frames):,}"
        row.click()
        assert lit_frames(page) == set(lead.frames.tolist())
        assert row.locator("button").get_attribute("aria-pressed") == "true"
        assert lead.kind in page.locator("#lit").inner_text()
    assert "pin" not in fragment_of(page)
    rows.nth(len(leads) - 1).click()
    assert page.evaluate("memviz.state.mark") is None
    assert page.locator("#lit").is_hidden()


def test_a_page_with_all_leads_says_so(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    forge(tmp_path / "dump", profiles()["Win7SP1x64"])
    snapshot = memory_visualizer.open(tmp_path / "dump")
    assert snapshot.leads.is_complete
    viewer.write_page(tmp_path / "page.html", snapshot)
    page = open_page(tmp_path / "page.html")
    page.get_by_role("tab", name="Leads").click()
    assert page.locator("#lead-note").is_hidden()
    assert page.locator("#lead-list tbody tr").count() == len(snapshot.leads.found)


def test_a_page_without_leads_has_no_list(open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    contents = np.random.default_rng(0).bytes(16 * PAGE_SIZE)
    (tmp_path / "dump").write_bytes(contents)
    viewer.write_page(tmp_path / "page.html", memory_visualizer.open(tmp_path / "dump"))
    page = open_page(tmp_path / "page.html")
    assert page.locator("#leads").is_hidden()
    assert page.get_by_role("tab", name="Leads").count() == 0


def test_pages_that_cannot_be_lit_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(tmp_path / "dump", profiles()["Win7SP1x64"])
    snapshot = memory_visualizer.open(tmp_path / "dump")
    leads = leads_so_far(snapshot).found
    runs = sum(int(np.count_nonzero(np.diff(one.frames, prepend=-2) != 1)) for one in leads)
    assert "cannot be lit" not in viewer.page(snapshot, None, {})
    monkeypatch.setattr(viewer, "_MAX_RUNS", 2)
    said = f"{runs - 2:,} stretches of pages of leads cannot be lit in this page: it has the first"
    assert said in viewer.page(snapshot, None, {})
