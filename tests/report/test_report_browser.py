"""The report in a real browser: Debian's chromium, driven by selenium. Skipped where either is missing."""

import base64
import io
import json
import math
import shutil
import struct
import wave

import pytest

from a2net_tf.report import media, report_data, report_page
from tests.report import made

images = pytest.importorskip("matplotlib.image")
webdriver = pytest.importorskip("selenium.webdriver")
ActionChains, Keys = webdriver.ActionChains, webdriver.Keys
By = pytest.importorskip("selenium.webdriver.common.by").By
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="no chromium and chromedriver (apt-get install chromium-driver)"
    ),
    pytest.mark.skipif(not report_page.is_possible(), reason="plotly is not installed"),
]
TABS = ["overview", "timelines", "errors", "classes", "training", "runs"]
HACK = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,900",
    ):
        options.add_argument(flag)
    options.add_argument("--autoplay-policy=no-user-gesture-required")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser):
    """Opens a report; afterwards nothing may have been complained of, nor asked of a network."""
    browser.get("about:blank")
    emulate(browser, 1200, 900)
    forget(browser)
    opened = Page(browser)
    yield opened
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in asked if e["method"] == "Network.requestWillBeSent"]
    assert urls, "the log has not even the page"
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


def emulate(browser, width, height, colours="light"):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"features": [{"name": "prefers-color-scheme", "value": colours}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)


def forget(browser):
    for log in ("browser", "performance"):
        browser.get_log(log)


class Page:
    """A report, and what a person does with it."""

    def __init__(self, browser):
        self.browser = browser

    def open(self, folder, *runs, tab="timelines", files=None, **kwargs):
        runs = runs or (made.evaluation(folder / "run", **kwargs),)
        results = [report_data.read_results(run) for run in runs]
        path = report_page.write_report(folder, results, min_score=0.3, files=files or {})
        self.browser.get(f"{path.as_uri()}#{tab}")
        self.wait(f"#panel-{tab} > *")
        return path

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, selector):
        self.until(lambda: self.all(selector))
        return self.one(selector)

    def until(self, is_so):
        WebDriverWait(self.browser, 20, poll_frequency=0.05).until(lambda _: is_so())

    def run(self, code, *arguments):
        return self.browser.execute_script(code, *arguments)

    def picture(self, number=0):
        """What is on the canvas of a card."""
        return self.run("return document.querySelectorAll('canvas')[arguments[0]].toDataURL()", number)

    def totals(self):
        """{"true": 3, ...} above the time lines."""
        return {key.text.split()[-1]: int(key.text.split()[-2]) for key in self.all(".totals .key")}

    def names(self):
        return [title.text for title in self.all("article:not([hidden]) h3")]

    def frame(self):
        """Waits until what was asked for is drawn."""
        self.browser.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )

    def point(self, canvas, seconds, y):
        """Moves the mouse to a time on a time line, ``y`` pixels below its top."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", canvas)
        box = canvas.rect
        from_middle = seconds / made.SECONDS * box["width"] - box["width"] / 2, y - box["height"] / 2
        actions = ActionChains(self.browser).move_to_element_with_offset(canvas, *map(round, from_middle))
        actions.perform()
        return ActionChains(self.browser)


TRUTH, FIRST_TRACK = 45, 45 + 50  # pixels below the top of a canvas: the middle of the bars


def colours_in(page, number, seconds, y):
    """RGB, and whether anything is drawn at all, on the canvas of a card at a time."""
    picture = images.imread(io.BytesIO(base64.b64decode(page.picture(number).partition(",")[2])))
    return tuple(round(255 * float(value)) for value in picture[y, round(seconds / made.SECONDS * picture.shape[1])])


def see_charts(page, name):
    """Waits until every chart of a part is drawn, and returns them."""
    charts = page.all(f"#panel-{name} .chart")
    for chart in charts:
        page.run("arguments[0].scrollIntoView({block: 'center'})", chart)
        page.until(lambda chart=chart: chart.find_elements(By.CSS_SELECTOR, ".main-svg .trace"))
    return charts


def test_every_part_opens_and_every_chart_is_drawn(page, tmp_path):
    page.open(tmp_path, tab="overview")
    assert [tab.get_attribute("id") for tab in page.all("[role=tab]")] == [f"tab-{name}" for name in TABS]
    for name in TABS:
        page.one(f"#tab-{name}").click()
        assert page.one(f"#panel-{name}").is_displayed()
        assert sum(panel.is_displayed() for panel in page.all("[role=tabpanel]")) == 1
        for chart in see_charts(page, name):
            drawn = ".trace path, .trace .point, .trace .js-line"
            assert chart.find_elements(By.CSS_SELECTOR, drawn), chart.get_attribute("aria-label")
    assert len(page.all(".chart")) == 4 + 2 + 3 + 1 + 1
    assert page.one("#cards").text.splitlines()[0].endswith("%")
    assert "--epochs" in page.one("#panel-runs").text


def test_the_slider_changes_what_is_drawn(page, tmp_path):
    page.open(tmp_path)
    page.wait("canvas")
    before = page.picture()
    assert page.totals() == {"true": 5, "duplicate": 1, "false": 3, "missed": 4}
    slider = page.one("#min-score")
    slider.send_keys(Keys.END)
    page.frame()
    assert page.totals() == {"true": 0, "duplicate": 0, "false": 0, "missed": 9}
    assert page.one("output").text == "1.00"
    assert page.picture() != before
    slider.send_keys(Keys.HOME)
    page.frame()
    assert page.totals() == {"true": 5, "duplicate": 1, "false": 6, "missed": 4}


def test_the_filter_of_classes_changes_what_is_drawn(page, tmp_path):
    page.open(tmp_path)
    page.wait("canvas")
    before = page.picture()
    page.run("arguments[0].value = '1'; arguments[0].dispatchEvent(new Event('change'))", page.one("#class"))
    page.frame()
    assert page.totals() == {"true": 3, "duplicate": 0, "false": 0, "missed": 0}
    assert page.picture() != before
    assert [option.text for option in page.all("#class option")] == ["all", *made.CLASSES]


def test_the_worst_come_first_and_other_orders(page, tmp_path):
    page.open(tmp_path)
    assert page.names() == ["c", "a", "b"]  # F1 0.4, 4/7, 4/6
    order = page.one("#order")
    page.run("arguments[0].value = 'name'; arguments[0].dispatchEvent(new Event('change'))", order)
    assert page.names() == ["a", "b", "c"]
    page.one("#search").send_keys("B")
    page.frame()
    assert page.names() == ["b"]


def test_boxes_choose_the_branches(page, tmp_path):
    page.open(tmp_path)
    height = page.wait("canvas").rect["height"]
    boxes = page.all("fieldset input")
    assert [box.is_selected() for box in boxes] == [True, True]
    boxes[0].click()
    page.frame()
    assert page.one("canvas").rect["height"] < height


def test_outcomes_differ_in_colour_and_in_shape(page, tmp_path):
    page.open(tmp_path)
    page.wait("canvas")
    number = page.names().index("a")
    right, wrong = (colours_in(page, number, seconds, FIRST_TRACK) for seconds in (19, 31))
    double = {colours_in(page, number, 15 + i / 10, FIRST_TRACK + 17) for i in range(20)}
    assert right[1] > right[0]  # green, filled
    assert wrong == (255, 255, 255, 255)  # hollow, on white
    assert len(double) > 1  # striped
    found, missed = (colours_in(page, number, seconds, TRUTH) for seconds in (19, 89))
    assert found != missed == wrong
    assert colours_in(page, number, 36, FIRST_TRACK)[3] == 0  # nothing there


@pytest.mark.parametrize(
    ("seconds", "y", "expected"),
    [
        (15, TRUTH, ["jump", "ground truth", "10.00 s to 20.00 s (10.00 s)"]),
        (85, TRUTH, ["jump", "missed by all branches that are shown", "1:20.00 to 1:30.00 (10.00 s)"]),
        (15, FIRST_TRACK, ["jump, score 0.900", "true (anchor free)", "tIoU 1.00 with jump at 10.00 s"]),
        (15, FIRST_TRACK + 17, ["jump, score 0.800", "duplicate (anchor free)", "tIoU 0.90 with jump at 10.00 s"]),
        (27, FIRST_TRACK, ["jump, score 0.700", "false: background (anchor free)", "22.00 s to 32.00 s (10.00 s)"]),
    ],
)
def test_what_the_mouse_is_told(page, tmp_path, seconds, y, expected):
    page.open(tmp_path, names=("a",))
    page.point(page.wait("canvas"), seconds, y)
    lines = page.wait("#tooltip:not([hidden])").text.splitlines()
    assert lines[: len(expected)] == expected
    page.point(page.one("canvas"), 97, TRUTH)
    assert not page.one("#tooltip").is_displayed()


def test_wheel_buttons_and_dragging_zoom_and_move(page, tmp_path):
    page.open(tmp_path, names=("a",))
    canvas, pictures = page.wait("canvas"), [page.picture()]

    def changed(act):
        act()
        page.frame()
        pictures.append(page.picture())
        assert pictures[-1] != pictures[-2]

    plus, everything = page.one("button[title='Zoom in']"), page.one("button[title='Show the whole recording']")
    changed(plus.click)
    changed(lambda: page.point(canvas, 50, TRUTH).click_and_hold().move_by_offset(200, 0).release().perform())
    changed(everything.click)
    assert pictures[-1] == pictures[0]
    event = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -100, ctrlKey: true, cancelable: true}))"
    changed(lambda: page.run(event, canvas))


def sound(path, seconds=made.SECONDS, rate=4000):
    """A recording that every browser plays."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        samples = [int(3000 * math.sin(i / 5)) for i in range(int(seconds * rate))]
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return path


def film(path, seconds=made.SECONDS):
    """A small video, in the format that comes with every chromium."""
    av, numpy = pytest.importorskip("av"), pytest.importorskip("numpy")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libvpx", rate=2)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(int(2 * seconds)):
            picture = numpy.full((48, 64, 3), i % 255, numpy.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize(("make", "name", "tag"), [(sound, "a b#.wav", "audio"), (film, "a b#.webm", "video")])
def test_a_click_seeks_and_a_line_runs_along(page, tmp_path, make, name, tag):
    (tmp_path / "films").mkdir()
    make(tmp_path / "films" / name)
    files = media.find_media(str(tmp_path / "films"), ["a b#"])
    page.open(tmp_path, names=("a b#",), files=files)
    page.wait("article button[title='Play the recording']").click()
    player = page.wait(f".player {tag}")
    page.until(lambda: page.run("return arguments[0].readyState", player) >= 2)
    page.until(lambda: page.run("return arguments[0].currentTime", player) > 0.2)  # it plays
    first = page.wait(".cursor").rect["x"]
    page.until(lambda: page.one(".cursor").rect["x"] > first)
    page.run("arguments[0].pause()", player)
    canvas = page.one("canvas")
    page.point(canvas, 60, TRUTH).click().perform()
    page.until(lambda: abs(page.run("return arguments[0].currentTime", player) - 60) < 1)
    page.until(lambda: abs(page.one(".cursor").rect["x"] - canvas.rect["x"] - 0.6 * canvas.rect["width"]) < 8)
    page.one("article button[title='Play the recording']").click()
    assert page.all(f".player {tag}") == []


def test_names_are_texts_whatever_they_hold(page, tmp_path):
    names = (HACK, "</script><b>bold", "<!-- & 'x' \"y\"")
    page.open(tmp_path, made.evaluation(tmp_path / "<i>run", names=names, class_names=(HACK, "</title>")))
    assert sorted(page.names()) == sorted(names)
    assert page.one("h1").text == "<i>run"
    assert page.browser.title == "<i>run: report"
    page.point(page.wait("canvas"), 15, TRUTH)
    assert HACK in page.wait("#tooltip:not([hidden])").text
    page.one("button[title='As a table']").click()
    assert HACK in page.wait(".table table").text
    for name in TABS:
        page.one(f"#tab-{name}").click()
        see_charts(page, name)
    assert HACK in [element.get_attribute("textContent") for element in page.all("#panel-classes svg text")]
    assert page.run("return window.hacked") is None
    assert page.all("main img, main i i, article b") == []


@pytest.mark.parametrize("tab", TABS)
def test_on_a_telephone_nothing_is_wider_than_the_screen(page, tmp_path, tab):
    emulate(page.browser, 390, 844)
    page.open(tmp_path, tab=tab)
    page.frame()
    assert page.run("return document.documentElement.scrollWidth") <= 390
    for canvas in page.all("canvas"):
        assert canvas.rect["x"] + canvas.rect["width"] <= 390


def test_dark_where_the_system_is_dark_and_as_it_changes(page, tmp_path):
    page.open(tmp_path)
    page.wait("canvas")
    colour = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert min(page.run(colour)) > 200
    light = page.picture()
    emulate(page.browser, 1200, 900, "dark")
    page.frame()
    assert max(page.run(colour)) < 60
    assert page.picture() != light


def test_everything_can_be_done_with_keys(page, tmp_path):
    page.open(tmp_path, tab="overview", names=("a",))
    page.one("#tab-overview").send_keys(Keys.ARROW_RIGHT)
    assert page.browser.switch_to.active_element.get_attribute("id") == "tab-timelines"
    assert page.one("#panel-timelines").is_displayed()
    canvas = page.wait("canvas")
    whole = page.picture()
    canvas.send_keys("+")
    zoomed = page.picture()
    assert zoomed != whole
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert page.picture() != zoomed
    canvas.send_keys("0")
    assert page.picture() == whole
    canvas.send_keys(".")
    said = page.one(".said")
    assert said.get_attribute("aria-live") == "polite"
    assert said.text == "jump \u00b7 ground truth \u00b7 10.00 s to 20.00 s (10.00 s)"
    canvas.send_keys("..")
    assert "missed" in said.text
    canvas.send_keys(".")
    assert "true (anchor free)" in said.text


def test_what_a_screen_reader_finds(page, tmp_path):
    page.open(tmp_path, names=("a",))
    canvas = page.wait("canvas")
    assert "2 true, 1 duplicate, 1 false, 1 missed" in canvas.get_attribute("aria-label")
    unnamed = """const all = document.querySelectorAll('button, input, select, canvas, audio, video, [role=img]');
    return [...all].filter((e) =>
    !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim())).length"""
    assert page.run(unnamed) == 0
    assert page.run("return document.documentElement.lang") == "en"
    selected = [tab.get_attribute("aria-selected") for tab in page.all("[role=tab]")]
    assert selected == ["false", "true", "false", "false", "false", "false"]
    page.one("button[title='As a table']").click()
    rows = [row.text.split() for row in page.all(".table tbody tr")]
    assert len(rows) == 3 + 2 * (4 + 1)  # the truth; of each branch four detections, and what it misses
    assert ["anchor", "free", "jump", "duplicate", "11.00", "20.00", "0.800", "0.900"] in rows


def test_two_runs_stand_side_by_side(page, tmp_path):
    runs = made.evaluation(tmp_path / "first"), made.evaluation(tmp_path / "second", found=made.FOUND[:1])
    page.open(tmp_path / "out", *runs)
    assert page.one("h1").text == "first and second"
    assert len(page.all("#cards > div")) == 2
    boxes = {label.text: label.find_element(By.TAG_NAME, "input").is_selected() for label in page.all("fieldset label")}
    assert boxes == {
        "first: anchor free": False,
        "first: both": True,
        "second: anchor free": False,
        "second: both": True,
    }
    page.one("#tab-runs").click()
    assert [box.text for box in page.all("#panel-runs h2")] == ["first", "second"]


def test_a_folder_of_many_recordings_opens_as_well(page, tmp_path):
    path = page.open(tmp_path, names=[f"r{i}" for i in range(201)])
    assert path.name == "index.html"
    assert len(page.all("article")) == 201
    assert 0 < len(page.all("canvas")) < 20  # what is far away is not drawn
    last = page.all("article")[-1]
    page.run("arguments[0].scrollIntoView()", last)
    page.until(lambda: last.find_elements(By.CSS_SELECTOR, "canvas"))
    page.one("#tab-overview").click()
    page.wait("#panel-overview .chart .main-svg")


def test_a_film_that_cannot_be_played_is_said(page, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no film")
    page.open(tmp_path, names=("a",), files={"a": tmp_path / "a.mp4"})
    page.wait("article button[title='Play the recording']").click()
    page.until(lambda: "cannot play a.mp4" in page.one(".said").text)
