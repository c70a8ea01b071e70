"""The page of a comparison in a real browser: a headless Chromium, which is installed for these tests."""

import base64
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs
from support.made_records import change, learn, make, measure, mtil, quoted

from bench.cli import main as cli

pytestmark = pytest.mark.browser

START = Path(__file__).parent / "chromium_up.sh"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><a href=javascript:hacked=1>%{x}"
TASKS = ["apples", "<b>pears</b>", "2020-01-01"]
"""Names that a page might take for markup or for dates."""
PANELS = [
    "short", "results", "tradeoff", "tasks", "matrices", "curves", "losses", "costs", "sweeps", "settings",
    "provenance",
]  # fmt: skip
METHODS = 6
"""Rows of the first field: two methods, four settings of a third."""


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two fields: pocket with a small sweep and evil names, MTIL with published numbers."""
    root = tmp_path_factory.mktemp("runs")
    rng = random.Random(0)

    def run(method: str, seed: int, fingerprint: str, **settings: object) -> None:
        path = make(root, method, seed=seed, fingerprint=fingerprint, **settings)
        measure(path, TASKS, [[rng.uniform(20, 90) for _ in TASKS] for _ in range(4)])
        change(path, "summary.json", seconds={"total": 10.0, "train": 5.0, "evaluate": 4.0})
        if method != "zero-shot":
            learn(path, [[3.0 + seed, 2.0, 1.5], [2.0, 1.0, 0.5], [4.0]])
        if method == "evil":
            change(path, "summary.json", method=EVIL)

    for seed in (0, 1, 2):
        run("zero-shot", seed, "z")
        run("evil", seed, "e", method__note=EVIL)
        run("keeplora", seed, "k22", method__rank=2, method__alpha=0.5)
    run("keeplora", 0, "k24", method__rank=2, method__alpha=1.0)
    run("keeplora", 0, "k42", method__rank=4, method__alpha=0.5)
    run("keeplora", 0, "k44", method__rank=4, method__alpha=1.0)
    make(root, "lora", seed=7, finished=False)
    names = list(mtil(root, last=1).tasks)
    measure(next(root.glob("mtil-order1/*/*/keeplora/*")), names, [[50 + row for _ in names] for row in range(12)])
    file = tmp_path_factory.mktemp("page") / "comparison.html"
    assert cli.main(["compare", str(root), f"html={file}"]) == 0
    return file


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A browser of these tests' own, with its console and its requests logged."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root, for Debian's packages of Chromium and for its sandbox")
    if not Path("/usr/bin/apt-get").exists():
        pytest.skip("needs Debian's packages of Chromium")
    folder = tmp_path_factory.mktemp("chromium")
    ready = subprocess.run(["bash", str(START), str(folder / "apt.log")], capture_output=True, text=True, timeout=600)
    assert ready.returncode == 0, ready.stdout + ready.stderr
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    driver.set_page_load_timeout(120)
    driver.set_script_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


class Browser:
    """What the tests ask of a page."""

    def __init__(self, driver, page: Path):
        self.driver = driver
        self.page = page

    def open(self, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.prefer(scheme)
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(self.page.as_uri())

    def prefer(self, scheme: str) -> None:
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", features)

    def js(self, code: str, *arguments):
        return self.driver.execute_script(code, *arguments)

    def choose(self, selector: str, value: object) -> None:
        """Change a select as a user does."""
        self.js(
            """const select = document.querySelector(arguments[0]);
            select.value = arguments[1];
            select.dispatchEvent(new Event("change"))""",
            selector, str(value),
        )  # fmt: skip

    def show(self, field: int) -> None:
        """Choose the runs that the page shows, counted from 0; -1 are the last ones."""
        self.choose("#field", range(len(embedded(self.page)["fields"]))[field])

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def focus(self, selector: str) -> None:
        self.js("document.querySelector(arguments[0]).focus()", selector)

    def data(self, panel: str) -> list[list[dict]]:
        """What Plotly draws below a heading: plots, of traces, of those of their attributes that hold marks."""
        return self.js(
            """return [...document.getElementById(arguments[0]).parentNode.querySelectorAll(".plot")].map((plot) =>
            plot.data.map(({type, x, y, z, text, zmin, zmax}) => ({type, x, y, z, text, zmin, zmax})))""",
            panel,
        )

    def count(self, panel: str, selector: str) -> int:
        return self.js(
            "return document.getElementById(arguments[0]).parentNode.querySelectorAll(arguments[1]).length",
            panel, selector,
        )  # fmt: skip


@pytest.fixture
def opened(chromium, tmp_path: Path) -> Callable[..., Browser]:
    """Opens a page of records that a test made below its own folder."""

    def of(*words: str) -> Browser:
        file = tmp_path / "page.html"
        assert cli.main(["compare", str(tmp_path), f"html={file}", *words]) == 0
        browser = Browser(chromium, file)
        browser.open()
        return browser

    return of


@pytest.fixture
def browser(chromium, page: Path) -> Browser:
    opened = Browser(chromium, page)
    opened.open()
    return opened


def embedded(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def test_nothing_is_requested_and_nothing_goes_wrong(browser: Browser) -> None:
    browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert [line for line in browser.driver.get_log("browser") if line["level"] != "INFO"] == []
    messages = [json.loads(line["message"])["message"] for line in browser.driver.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("data:", "blob:"))] == [browser.page.as_uri()]
    assert browser.js("return performance.getEntriesByType('resource').map(({name}) => name)") == []


def test_a_request_would_be_refused(browser: Browser) -> None:
    refused = browser.driver.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done(false), () => done(true))"
    )
    assert refused and "Content Security Policy" in str(browser.driver.get_log("browser"))


def test_every_panel_has_its_marks(browser: Browser) -> None:
    browser.show(-1)
    assert browser.js("return [...document.querySelectorAll('h2')].map(({id}) => id)") == PANELS
    links = browser.js("return [...document.querySelectorAll('#contents a')].map((a) => a.getAttribute('href'))")
    assert links == [f"#{panel}" for panel in PANELS]
    field = embedded(browser.page)["fields"][-1]  # pocket comes after mtil-order1
    assert len(field["groups"]) == METHODS and field["tasks"] == TASKS

    # In short: three forests of the other methods, and a table of them.
    forests = browser.data("short")
    assert len(forests) == 3 and all(len(traces) == METHODS - 1 for traces in forests)
    assert browser.count("short", "tbody tr") == METHODS - 1 and browser.count("short", ".answers li") == 4
    # Results: a row a method, a cell for every column and n.
    assert browser.count("results", ".scroll:first-child tbody tr") == METHODS
    means = {group["label"]: group["values"]["last"][0] for group in field["groups"]}
    (scatter,) = browser.data("tradeoff")
    upright, level, *marks = scatter  # the untrained model is a line on each axis
    untrained = means.pop("zero-shot")
    assert set(upright["x"]) == {untrained} and len(set(level["y"])) == 1
    assert sorted(x for trace in marks for x in trace["x"]) == pytest.approx(sorted(means.values()))
    assert browser.count("tradeoff", ".scatterlayer .point") == METHODS - 1
    assert browser.count("tradeoff", ".errorbar") >= 3  # of those with seeds
    # Matrices: one a method, with the numbers of the data, all on one scale.
    drawn = [trace for (trace,) in browser.data("matrices")]
    assert [trace["z"] for trace in drawn] == [group["mean"] for group in field["groups"]]
    assert len({(trace["zmin"], trace["zmax"]) for trace in drawn}) == 1
    assert browser.count("matrices", ".heatmaplayer .hm") == METHODS
    assert browser.count("matrices", ".heatmap-label") == METHODS * 4 * 3
    # Curves: of every task, of the mean of those learned and of those to come, a line a method.
    curves = browser.data("curves")
    assert len(curves) == 2 + len(TASKS) and all(len(traces) == METHODS for traces in curves)
    for trace, group in zip(curves[1], field["groups"], strict=True):
        assert trace["y"] == group["waiting"][: len(TASKS) - 1]
    for column, traces in enumerate(curves[2:]):
        for trace, group in zip(traces, field["groups"], strict=True):
            assert trace["y"] == [row[column] for row in group["mean"]]
    # Losses: of every task, a line for each method that trains.
    losses = browser.data("losses")
    trained = [group for group in field["groups"] if group["method"] != "zero-shot"]
    assert len(losses) == len(TASKS) and all(len(traces) == METHODS - 1 for traces in losses)
    for task, traces in enumerate(losses):
        for trace, group in zip(traces, trained, strict=True):
            assert trace["x"] == list(range(1, len(trace["x"]) + 1))
            assert trace["y"] == [mean for mean, _ in group["losses"][task]]
    # Tasks: a row a method, a cell for every task and their mean; a plot for each method that has a difference.
    assert browser.count("tasks", "tbody tr") == METHODS and browser.count("tasks", "tbody td") == METHODS * 4
    apart = field["per_task"]["tables"][-1]["differences"]
    drawn = [trace for (trace,) in browser.data("tasks")]
    assert [trace["x"] for trace in drawn] == [[one[0] for one in row] for row in apart.values()]
    assert len(drawn) == METHODS - 1
    # Costs: Last over seconds and over what is stored, phases that add up, memory, what is stored.
    *over, seconds, memory, stored = browser.data("costs")
    for scatter, cost in zip(over, [10, 2.5], strict=True):
        level, *marks = scatter  # the reference line of the untrained model
        assert set(level["y"]) == {untrained}
        assert sorted(y for trace in marks for y in trace["y"]) == pytest.approx(sorted(means.values()))
        assert {x for trace in marks for x in trace["x"]} == {cost}
    assert [sum(values) for values in zip(*(trace["x"] for trace in seconds), strict=True)] == [10] * METHODS
    assert memory[0]["x"] == [700.4] * METHODS and stored[0]["x"] == [2.5] * METHODS
    # Settings tried: the metric over rank, over rank and alpha, and a line for each of four.
    over, crossed, parallel = browser.data("sweeps")
    tried = {
        (g["apart"]["method.alpha"], g["apart"]["method.rank"]): means[g["label"]]
        for g in field["groups"]
        if g["apart"]
    }
    assert sorted(y for trace in over for y in trace["y"]) == pytest.approx(sorted(tried.values()))
    assert sorted(z for row in crossed[0]["z"] for z in row) == pytest.approx(sorted(tried.values()))
    assert sum(x is None for trace in parallel for x in trace["x"]) == len(tried) == 4
    assert browser.count("sweeps", "canvas") == 0
    assert browser.count("provenance", "#left-out tbody tr") == 1
    assert browser.count("provenance", "details:not(#left-out) tbody tr") == len(field["runs"]) == 12


BOXES = """const box = (node) => { const { left, right } = node.getBoundingClientRect(); return [left, right]; };
return [...document.querySelectorAll(".plot")].map((plot) => ({
  name: plot.parentNode.getAttribute("aria-label"),
  place: box(plot.parentNode),
  drawn: box(plot.querySelector(".main-svg")),
  area: box(plot.querySelector(".draglayer .nsewdrag")),
  marks: [...plot.querySelectorAll(".scatterlayer .point, .shapelayer path")].map(box),
  bars: [...plot.querySelectorAll(".errorbar path")].map(box),
}))"""
"""Left and right ends of plots: of their place, of what is drawn, of the area inside the axes, of marks in it."""


def misplaced(browser: Browser) -> list[str]:
    """Plots that are not as wide as their place, and those with a mark that is not seen."""
    plots = browser.js(BOXES)
    assert len(plots) > 15
    return [
        plot["name"]
        for plot in plots
        if plot["drawn"] != pytest.approx(plot["place"], abs=1)
        or any(left < plot["drawn"][0] or right > plot["drawn"][1] + 0.5 for left, right in plot["marks"])
        # An interval on a task is cut off at 100 points.
        or (
            any(left < plot["drawn"][0] or right > plot["drawn"][1] + 0.5 for left, right in plot["bars"])
            and not plot["name"].endswith("on every task")
        )
    ]


@pytest.mark.parametrize("width", [1200, 800, 360])
def test_plots_fit_their_places_when_the_page_opens(browser: Browser, width: int) -> None:
    browser.open(width=width)
    assert browser.js("return document.querySelectorAll('.plot').length") > 0
    browser.show(-1)
    assert misplaced(browser) == []
    # Each difference has its point, and the line of no difference is inside the axes.
    forests = [plot for plot in browser.js(BOXES) if plot["name"].endswith(": differences")]
    assert len(forests) == 3
    for plot in forests:
        left, right = plot["area"]
        assert all(left - 6 <= mark[0] <= mark[1] <= right + 6 for mark in [*plot["marks"], *plot["bars"]])
        assert any(mark[1] - mark[0] < 1.5 for mark in plot["marks"])  # the line at zero, which is upright


def test_plots_follow_their_places_without_a_resize_of_the_window(browser: Browser) -> None:
    browser.show(-1)
    before = [plot["place"][1] - plot["place"][0] for plot in browser.js(BOXES)]
    browser.js("document.getElementById('main').style.maxWidth = '50rem'")
    browser.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 500))")
    assert [plot["place"][1] - plot["place"][0] for plot in browser.js(BOXES)] != before
    assert misplaced(browser) == []


def test_without_a_common_seed_a_sentence_stands_where_axes_would_be_empty(opened, tmp_path: Path) -> None:
    make(tmp_path, "keeplora", seed=0)
    make(tmp_path, "lora", seed=1)
    browser = opened()
    assert browser.data("short") == []
    assert "Not drawn: lora (no seed in common)." in browser.js(
        "return document.getElementById('short').parentNode.innerText"
    )
    make(tmp_path, "third", seed=0)
    assert [len(traces) for traces in opened().data("short")] == [1, 1, 1]


def test_seconds_of_runs_that_shared_a_machine_are_marked(opened, tmp_path: Path) -> None:
    for minute, method in enumerate(("keeplora", "lora", "third")):
        began = {"host": "a", "started": f"2026-11-27T12:{2 * minute:02}:00+0000"}
        change(make(tmp_path, method), "environment.json", **began)
    change(make(tmp_path, "fourth"), "environment.json", host="a", started="2026-11-27T12:04:30+0000")
    browser = opened()
    seconds = "return [...document.querySelectorAll('#results ~ div tbody tr')].map((r) => r.cells[8].textContent)"
    assert browser.js(seconds) == ["60.0 *", "60.0", "60.0", "60.0 *"]
    times = "return [...document.querySelectorAll('#short ~ div tbody tr')].map((r) => r.cells[6].textContent)"
    assert browser.js(times) == ["–shared machine", "× 1.00", "–shared machine"]
    symbols = """return [...document.querySelectorAll('#costs ~ div .plot')].slice(0, 2).map(({ data }) =>
        data.flatMap(({ marker }) => marker.symbol).filter((one) => one.endsWith("-open")).length)"""
    assert browser.js(symbols) == [2, 0]  # over seconds, not over what is stored
    ticks = "return [...document.querySelectorAll('#costs ~ div .ytick text')].map((one) => one.textContent)"
    assert {"fourth *", "third *", "lora"} <= set(browser.js(ticks))
    said = browser.js("return document.getElementById('main').innerText")
    assert "runs shared a machine, so that their seconds are not those of a run alone: fourth, third" in said
    assert "Fastest" not in said


def test_text_of_records_is_shown_and_does_nothing(browser: Browser) -> None:
    browser.show(-1)
    browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.js("return window.hacked") is None
    assert browser.js("return document.querySelectorAll('img, iframe, script:not([id])').length") == 2  # our scripts
    assert browser.js("return document.querySelectorAll('svg a').length") == 0
    assert EVIL in browser.js("return document.getElementById('results').parentNode.innerText")
    labels = browser.js("return [...document.querySelectorAll('.ytick text')].map((one) => one.textContent)")
    assert EVIL in labels and "<b>pears</b>" in labels and "2020-01-01" in labels
    hovered = browser.js(
        """const plot = document.querySelector("#tradeoff ~ div .plot");
        const curveNumber = plot.data.findIndex(({ mode }) => mode !== "lines");  // not the reference line
        Plotly.Fx.hover(plot, [{ curveNumber, pointNumber: 0 }]);
        return plot.querySelector(".hoverlayer").textContent;"""
    )
    assert EVIL in hovered


def test_published_numbers_are_marked(browser: Browser) -> None:
    browser.show(0)
    known = quoted()
    rows = browser.js(
        "return [...document.querySelectorAll('#results ~ div tr.published')].map((row) => row.cells[0].textContent)"
    )
    assert rows == [f"{row.method} (published{', set apart' if row.apart else ''})" for row in known.rows]
    ours, theirs = browser.data("tradeoff")[0]
    both = [row for row in known.rows if {"last", "transfer_by_column"} <= set(row.values)]
    assert (len(ours["x"]), len(theirs["x"])) == (1, len(both))
    symbols = browser.js(
        "return [...document.querySelectorAll('#tradeoff ~ div .plot')].map(({data}) => data[1].marker.symbol)"
    )
    assert symbols == ["diamond-open"]


def test_all_controls_are_reached_and_work_by_keyboard(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.show(-1)
    browser.js("document.body.tabIndex = -1; document.body.focus()")
    controls = """return [...document.querySelectorAll("select, button, input, summary, a[href], .scroll")]
        .filter((one) => one.checkVisibility() && !one.closest(".plot")).length"""
    wanted = browser.js(controls)
    browser.js("document.addEventListener('focusin', (event) => event.target.dataset.reached = '1')")
    reached = "return [...document.querySelectorAll('[data-reached]')].filter((one) => !one.closest('.plot')).length"
    for _ in range(3 * wanted):
        browser.press(*[Keys.TAB] * 10)
        if browser.js(reached) == wanted:
            break
    assert browser.js(reached) == wanted > 40

    browser.focus("#results ~ div th:nth-child(6) button")  # Last
    orders = []
    for _ in range(2):
        browser.press(Keys.ENTER)
        sorting = browser.js("return document.activeElement.parentNode.getAttribute('aria-sort')")
        cells = browser.js(
            "return [...document.querySelectorAll('#results ~ div tbody tr')].map((r) => r.cells[5].textContent)"
        )
        orders.append((sorting, [float(cell.partition(" ")[0]) for cell in cells if cell]))
    (first, falling), (second, rising) = orders
    assert (first, second) == ("descending", "ascending")
    rivals = METHODS - 1  # the reference line stays below them
    assert falling[:rivals] == sorted(falling[:rivals], reverse=True) and rising[:rivals] == falling[:rivals][::-1]
    assert falling[rivals] == rising[rivals]

    browser.focus("#matrices ~ div select")
    browser.press(Keys.ARROW_DOWN)
    drawn = [trace for (trace,) in browser.data("matrices")]
    groups = embedded(browser.page)["fields"][-1]["groups"]
    assert len(drawn) == METHODS - 1 and drawn[0]["zmin"] == -drawn[0]["zmax"]
    expected = [a - b for a, b in zip(groups[1]["mean"][2], groups[0]["mean"][2], strict=True)]
    assert drawn[0]["z"][2] == pytest.approx(expected)

    browser.focus("#choices input")
    browser.press(Keys.SPACE)
    assert all(len(traces) == METHODS - 1 for traces in browser.data("curves"))
    assert len(browser.data("matrices")) == METHODS - 1  # the baseline of the difference is not drawn anyway

    before = browser.js("return document.querySelector('#short ~ div tbody').innerText")
    browser.focus("#short ~ div select")
    browser.press(Keys.ARROW_DOWN)
    assert browser.js("return document.querySelector('#short ~ div tbody').innerText") != before
    assert "without intervals" in browser.js("return document.querySelector('#short').parentNode.innerText")

    browser.focus("#curves ~ div select")
    browser.press(Keys.ARROW_DOWN)
    assert len(browser.data("curves")) == 1

    browser.focus("#losses ~ div select")
    browser.press(Keys.ARROW_DOWN)
    assert len(browser.data("losses")) == 1

    browser.focus("#tasks ~ div select")
    browser.press(Keys.ARROW_UP)  # from Last to Average
    rows = embedded(browser.page)["fields"][-1]["per_task"]["tables"][1]["rows"]
    cells = "return [...document.querySelectorAll('#tasks ~ div tbody tr')].map((r) => r.cells[1].textContent)"
    assert browser.js(cells) == [f"{row[0][0]:.1f}" for row in rows]

    browser.focus("#costs ~ div select")
    browser.press(Keys.ARROW_DOWN)  # from Last to Average
    drawn = [y for trace in browser.data("costs")[0] for y in set(trace["y"])]  # a reference line has one value
    averages = [group["values"]["average_mtil"][0] for group in groups]
    assert len(drawn) == METHODS and set(drawn) == set(averages)

    browser.js("[...document.querySelectorAll('#sweeps ~ div select')].at(-1).focus()")
    browser.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    marked = browser.data("sweeps")[2][-1]
    assert sum(x is None for x in marked["x"]) == 1

    browser.focus("#provenance ~ div summary")
    browser.press(Keys.ENTER)
    assert browser.js("return document.activeElement.parentNode.open") is True


def test_the_other_runs_are_a_choice_away(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    titles = [field["title"] for field in embedded(browser.page)["fields"]]
    assert browser.js("return [...document.getElementById('field').options].map(({text}) => text)") == titles
    assert titles[0] in browser.js("return document.getElementById('main').innerText")
    browser.focus("#field")
    browser.press(Keys.ARROW_DOWN)
    assert titles[1] in browser.js("return document.getElementById('main').innerText")
    assert browser.js(
        "return document.querySelectorAll('h2').length === document.querySelectorAll('#contents a').length"
    )


def test_the_scripts_leave_nothing_global(browser: Browser, tmp_path: Path) -> None:
    names = "return Object.getOwnPropertyNames(window)"
    ours = set(browser.js(names))
    plotly = tmp_path / "plotly.html"
    plotly.write_text(f"<!doctype html><script>{get_plotlyjs()}</script>", encoding="utf-8")
    browser.driver.get(plotly.as_uri())
    assert "Plotly" in ours and ours - set(browser.js(names)) == set()


def test_plots_that_are_gone_are_forgotten(browser: Browser) -> None:
    browser.show(-1)
    browser.js("window.gone = [...document.querySelectorAll('#curves ~ div .plot')]")
    browser.choose("#curves ~ div select", "mean")
    browser.choose("#theme", "dark")  # draws what is there
    assert browser.js("return gone.map((one) => one.isConnected || Boolean(one.data))") == [False] * (2 + len(TASKS))
    browser.js("window.gone = [...document.querySelectorAll('.plot')]")
    browser.show(0)
    browser.choose("#theme", "light")
    assert not any(browser.js("return gone.map((one) => one.isConnected || Boolean(one.data))"))


def test_what_stands_out_is_what_python_computed(browser: Browser) -> None:
    browser.show(-1)
    field = embedded(browser.page)["fields"][-1]
    shorts = [group["short"] for group in field["groups"]]
    said = browser.js("return [...document.querySelectorAll('#short ~ div .answers b')].map((one) => one.textContent)")
    last, average, transfer = (", ".join(shorts[index] for index in won) for won in field["winners"].values())
    assert said == [last, average, transfer, shorts[field["fastest"]]]

    cells = """return [...document.querySelectorAll('#short ~ div tbody tr')].map((row) =>
        [...row.cells].slice(-4).map((cell) => cell.textContent))"""
    for baseline in field["baselines"][::2]:
        browser.choose("#short ~ div select", baseline)
        contrasts = [one for one in field["contrasts"][str(baseline)] if one]
        for shown, (_, gain, loss, ratios, _) in zip(browser.js(cells), contrasts, strict=True):
            changes = [
                f"{TASKS[one[0]]} {'+' if one[1] > 0 else '−'}{abs(one[1]):.1f}" if one else "none"
                for one in (gain, loss)
            ]
            assert shown == [*changes, *(f"× {ratio:.2f}" for ratio in ratios)]

        browser.choose("#matrices ~ div select", baseline)
        drawn = [trace for (trace,) in browser.data("matrices")]
        assert {trace["zmax"] for trace in drawn} == {max(one[4] for one in contrasts)}
    browser.choose("#matrices ~ div select", "")
    assert browser.data("matrices")[0][0]["zmin"] == field["accuracies"][0]

    (tried,) = field["tried"]
    for metric, tops in tried["tops"].items():
        browser.choose("#sweeps ~ div select", metric)
        best = browser.js("return document.querySelector('#sweeps ~ div p').textContent")
        assert f": {shorts[tops['best']]}, " in best, metric


PAPER = """const of = (node, name) => getComputedStyle(node)[name];
return [of(document.body, "backgroundColor"), of(document.body, "color"),
  ...new Set([...document.querySelectorAll(".plot .main-svg:first-child")].map((svg) => of(svg, "backgroundColor")))]"""


def test_light_and_dark(browser: Browser) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 500))")
        paper, ink, *plots = seen[scheme] = browser.js(PAPER)
        assert plots == [paper] and paper != ink
    assert seen["light"][0] == seen["dark"][0].replace("21, 24, 29", "255, 255, 255") != seen["dark"][0]
    for scheme in ("light", "dark"):
        browser.choose("#theme", scheme)
        assert browser.js(PAPER) == seen[scheme]  # whatever the system prefers
    browser.js("dispatchEvent(new Event('beforeprint'))")
    assert browser.js(PAPER) == seen["light"]  # paper is white
    browser.js("dispatchEvent(new Event('afterprint'))")
    assert browser.js(PAPER) == seen["dark"]
    printed = base64.b64decode(browser.driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF") and len(printed) > 50_000


@pytest.mark.parametrize("field", [0, 1])
def test_a_phone_need_not_scroll_sideways(browser: Browser, field: int) -> None:
    browser.open(width=360, height=740)
    browser.show(field)
    browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.js("document.querySelector('#field option').textContent = 'a title that is long '.repeat(30)")
    assert (
        browser.js("return [innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth]") == [360] * 3
    )
    wide = browser.js(
        "return [...document.querySelectorAll('.plot')].filter((one) => one.getBoundingClientRect().right > 360).length"
    )
    assert wide == 0
