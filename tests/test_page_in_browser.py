"""The page to draw on in a real browser: pointer, keys, every tab, and a window of a phone's width."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dood_pyro.drawing import Drawing
from tests.page_served import served

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def browser_path() -> str | None:
    """Path of a Chromium; None for the one that playwright installed, if it did."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as play:
        try:
            found = play.chromium.launch(executable_path=browser_path(), args=FLAGS)
        except Error:
            remedy = "no Chromium: apt install chromium, or .venv/bin/playwright install chromium"
            if os.environ.get("CI"):
                pytest.fail(remedy)
            pytest.skip(remedy)
        yield found
        found.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as found:
        yield found.url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1100, "height": 800})
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda said: said.type == "error" and problems.append(said.text))
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(url)
    opened.wait_for_selector("#run option", state="attached")
    yield opened
    opened.close()
    assert not problems
    assert all(each.startswith((url, "data:", "blob:")) for each in asked)  # no network


def stroke(page: Any, *points: tuple[float, float]) -> None:
    """Draw with the pen down from point to point, in shares of the pad."""
    box = page.locator("#pad").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def cross(page: Any) -> None:
    stroke(page, (0.2, 0.2), (0.8, 0.8))
    stroke(page, (0.8, 0.25), (0.2, 0.75))
    page.wait_for_selector("#list li:nth-child(2)")


def saved(page: Any, suffix: str, folder: Path) -> Path:
    page.select_option("#format", suffix)
    with page.expect_download() as download:
        page.click("#save")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_cross_is_two_strokes_to_change_and_to_save(page: Any, tmp_path: Path) -> None:
    cross(page)
    assert page.locator("#list li").count() == 2
    assert "2 strokes" in page.inner_text("#says")
    before = Drawing.open(saved(page, "json", tmp_path))
    assert len(before) == 2

    page.hover("#list li:nth-child(2)")
    assert page.locator("#found path.lit").count() == 1
    page.click("#list li:nth-child(1) [aria-label^='Draw stroke 1 later']")
    swapped = Drawing.open(saved(page, "json", tmp_path))
    assert swapped[0].same(before[1]) and swapped[1].same(before[0])

    page.click("#list li:nth-child(1) .name")
    handle = page.locator("#found circle").first
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 30, steps=4)
    page.mouse.up()
    moved = Drawing.open(saved(page, "json", tmp_path))
    assert abs(moved[0].control[0, 0] - swapped[0].control[0, 0]).min() > 5
    assert moved[1].same(swapped[1])
    page.locator("#found circle").nth(1).focus()
    page.keyboard.press("ArrowDown")
    assert not Drawing.open(saved(page, "json", tmp_path))[0].same(moved[0])

    page.click("#list li:nth-child(2) [aria-label='Hide stroke 2']")
    left = Drawing.from_svg(saved(page, "svg", tmp_path).read_text())
    assert len(left) == 1
    for suffix in ("gif", "npz"):
        assert saved(page, suffix, tmp_path).stat().st_size > 100
    page.click("#replay")
    page.click("#undo")
    page.wait_for_selector("#list li:nth-child(2)", state="detached")
    page.click("#clear")
    assert page.locator("#list li").count() == 0


def test_every_tab_answers(page: Any) -> None:
    cross(page)
    for tab, drawings in (("complete", 6), ("exemplars", 6), ("samples", 12)):
        page.click(f"#tab-{tab}")
        page.click(f"#do-{tab}")
        page.wait_for_selector(f"#{tab} .use", timeout=60_000)
        assert page.locator(f"#{tab} .use").count() == drawings
    page.locator("#samples .use").first.click()
    assert page.is_visible("#strokes") and page.locator("#list li").count() >= 1
    assert page.evaluate("document.activeElement.id") == "tab-strokes"
    page.click("#tab-steps")
    page.click("#do-steps")
    page.wait_for_selector("#steps figure", timeout=60_000)
    assert 2 <= page.locator("#steps figure").count() <= 6
    page.click("#tab-rank")
    page.click("#add")
    stroke(page, (0.3, 0.2), (0.3, 0.8), (0.7, 0.8))
    page.click("#add")
    stroke(page, (0.25, 0.2), (0.3, 0.8), (0.75, 0.75))
    page.click("#do-rank")
    page.wait_for_selector("#ranking .best", timeout=60_000)
    assert page.get_attribute("#ranking .best img", "alt") == "example 2"


def test_the_keyboard_is_enough(page: Any) -> None:
    page.focus("#pad")
    for key in [" ", *["ArrowRight"] * 8, *["ArrowDown"] * 5, " "]:
        page.keyboard.press(key)
    page.wait_for_selector("#list li")
    # The space bar does nothing while the pointer draws.
    box = page.locator("#pad").bounding_box()
    page.mouse.move(box["x"] + 30, box["y"] + 30)
    page.mouse.down()
    page.focus("#pad")
    page.keyboard.press(" ")
    page.mouse.move(box["x"] + 90, box["y"] + 60)
    page.mouse.up()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#list li:nth-child(2)")
    page.focus("#tab-strokes")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#complete") and not page.is_visible("#strokes")


def test_pictures_are_opened_and_what_is_none_is_said(page: Any, tmp_path: Path) -> None:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (1600, 900), "white")
    ImageDraw.Draw(picture).line((200, 200, 1400, 700), fill="black", width=30)
    picture.save(tmp_path / "line.png")
    page.set_input_files("#file", tmp_path / "line.png")
    page.wait_for_selector("#list li")
    found = Drawing.open(saved(page, "json", tmp_path))
    assert (found.width, found.height, len(found)) == (1000, 563, 1)
    light = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    ImageDraw.Draw(light).line((20, 20, 180, 160), fill=(255, 255, 255, 255), width=9)
    light.save(tmp_path / "light.png")
    page.set_input_files("#file", tmp_path / "light.png")
    page.wait_for_selector("#found[viewBox='0 0 200 200'] path")
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#file", tmp_path / "notes.txt")
    page.wait_for_selector("#says.wrong")


def test_a_phone_has_room_for_it(browser: Any, url: str) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 700}, has_touch=True)
    page = context.new_page()
    page.goto(url)
    # A run has a longer name than the packaged one.
    page.evaluate(
        "document.querySelector('#run').add(new Option('dood-transformer-omniglot-0'), 0)"
    )
    page.select_option("#run", index=0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    box = page.locator("#pad").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#list li")
    context.close()
