"""The HTML page: what it says, that it is a page of its own and the same each time, and how it is in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser, chromium
from recorded import result, write

from dropbench.compare.baseline import conditions
from dropbench.compare.origin import origins
from dropbench.compare.report import report, save
from dropbench.compare.rows import Options
from dropbench.errors import UserError
from dropbench.runs.files import line
from dropbench.runs.find import read
from dropbench.terminal import clean

OPTIONS = Options(baselines=(conditions("strategy=none"), conditions("strategy=standard")))
#: Names that want to be markup, script, template, style, or to turn the line around.
HOSTILE = (
    "<script>window.pwned=1</script>",
    "</script><img src=x onerror=window.pwned=1>",
    "\"'><svg onload=window.pwned=1>",
    "{{ 7 * 7 }}{% raw %}",
    "</style></title><b>",
    "a\u202eb\x1b[31mc\x00d\n e",
    "$x_1$ &lt;&amp;",
    "]]><!-- --><![CDATA[",
)
RECORD = {
    "started": "2026-01-02T03:04:05+00:00",
    "versions": {"dropbench": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu", "numpy": "2.4.6", "cuda": None},
    "hardware": {"device": "cpu", "name": "A processor", "threads": 2},
    "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
    "command": ["dropbench", "train", "-m", "strategy=none,standard", "seed=range(0,6)"],
    "data": {"sha256": "ab" * 32},
}
NONE = (3.0, 3.5, 4.0, 3.0, 3.5, 4.0)


def runs(root: Path, strategy: str, errors: Any, record: dict[str, Any] | None = RECORD, **changes: Any) -> Path:
    """One run a seed, with a log of evaluations that pictures can be drawn from."""
    for seed, error in enumerate(errors):
        name = f"{changes.get('dataset', 'digits')}-{strategy}-{changes.get('rate', 0.5)}-s{seed}"
        folder = write(root / "main" / re.sub(r"[/\0]", "_", name), result(seed, error, strategy=strategy, **changes))
        rows = [
            {
                "seq": i, "epoch": i, "step": 30 * i, "seconds": float(i),
                "train": {"loss": 1 / (i + 1), "error": 9.0 / (i + 1)},
                "validation": {"loss": 1.2 / (i + 1), "error": error + 9 / (i + 1)},
                "sites": {"hidden1": {"rate": 0.05 * i, "dropped": 0.049 * i}},
            }
            for i in range(8)
        ]  # fmt: skip
        (folder / "metrics.jsonl").write_bytes(b"".join(map(line, rows)))
        if record is not None:
            (folder / "record.json").write_text(json.dumps(record))
    return root


def page(root: Path, options: Options = OPTIONS, name: str = "") -> str:
    return report(read([root]), options, name)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if matplotlib were not installed: drawing takes most of the time."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


class Seen(HTMLParser):
    """What a parser makes of a page: tags with their attributes, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.code: dict[str, str] = {}
        self._inside = ""
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("style", "script") else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.code[self._inside] = self.code.get(self._inside, "") + data
        else:
            self.pieces.append(data)


# ---- what it says


@pytest.mark.usefixtures("undrawn")
def test_the_answer_is_that_of_the_table(tmp_path: Path) -> None:
    # The differences -1, -1.5, -2, -1, -1.5, -2 have one sign: p = 2 / 2^6 = 0.03125, the only test, so Holm leaves it.
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", (2.0,) * 6)
    text = Seen(page(tmp_path)).text
    assert (
        "Which has the lowest test error on digits with mlp: standard or none , and is the difference to the baseline "
        "strategy=none real?"
    ) in text
    assert (
        "On digits with mlp , standard 0.5 has the lowest validation error of 2 settings; its test error is 2.00 % "
        "(95 % CI [2.00, 2.00], 6 seeds), 1.50 points less than that of none (95 % CI [\u22122.00, \u22121.00], "
        "p = 0.031 after Holm's correction): better ."
    ) in text
    assert "Two-sided sign-flip test of the mean difference (exact)" in text
    assert "sha256 abababababababab (12 runs)" in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("errors", "delta", "told"),
    [
        ((4.0, 4.5, 5.0, 4.5, 5.0, 5.0), None, "is 3.50 % (95 % CI [3.03, 3.97], 6 seeds). It is the baseline itself."),
        ((2.9, 3.4, 4.1, 3.1, 3.3, 3.9), None, "cannot be told whether this is real"),
        ((2.99, 3.49, 3.99, 2.99, 3.49, 3.98), 0.5, "equal within 0.5 points"),
        ((2.0, 2.0, 2.0), None, "3 pairs cannot show that a difference is real; it takes at least 6."),
    ],
)  # fmt: skip
def test_other_answers(tmp_path: Path, errors: Any, delta: float | None, told: str) -> None:
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", errors)
    text = Seen(page(tmp_path, Options(baselines=OPTIONS.baselines, delta=delta))).text
    assert told in re.sub(r" (?=[.,:])", "", text)


@pytest.mark.usefixtures("undrawn")
def test_the_setting_is_chosen_by_validation_though_the_test_set_likes_another(tmp_path: Path) -> None:
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", (1.0,) * 6, validation={"loss": 1.0, "error": 5.0})
    runs(tmp_path, "gradual", (2.0,) * 6, validation={"loss": 1.0, "error": 1.0})
    text = Seen(page(tmp_path)).text
    assert "gradual 0.5 has the lowest validation error of 3 settings; its test error is 2.00" in text
    assert "None of 2 settings can be told apart from the baseline." in text  # p = 0.031, twice that after Holm


def test_without_a_run_that_is_done_the_page_still_comes(tmp_path: Path) -> None:
    write(tmp_path / "main" / "stopped", None)
    write(tmp_path / "main" / "torn", '{"status": "do')
    text = Seen(page(tmp_path)).text
    assert "No run is done yet" in text
    assert "torn unreadable" in text
    assert "stopped interrupted" in text


@pytest.mark.usefixtures("undrawn")
def test_one_setting_is_told_without_a_comparison(tmp_path: Path) -> None:
    runs(tmp_path, "standard", (2.0, 3.0))
    text = Seen(page(tmp_path)).text
    assert "Which test error does standard 0.5 reach on digits with mlp?" in text
    assert "reaches a test error of 2.50" in text


@pytest.mark.usefixtures("undrawn")
def test_figures_of_two_kinds_have_a_table_each(tmp_path: Path) -> None:
    runs(tmp_path, "standard", (2.0, 3.0))
    figures = {split: {"loss": 0.5, "rmse": 0.25, "nll": 0.5} for split in ("train", "validation", "test")}
    runs(tmp_path, "standard", (2.0, 3.0), dataset="adding", task="regression", **figures)
    text = Seen(page(tmp_path)).text
    assert "Settings by test error" in text
    assert "Settings by test rmse" in text
    assert "on digits with mlp and adding with mlp" in text


@pytest.mark.usefixtures("undrawn")
def test_failed_runs_stand_with_the_last_line_of_their_error(tmp_path: Path) -> None:
    runs(tmp_path, "standard", (2.0,) * 6)
    failed = result(7) | {"status": "failed"}
    folder = write(tmp_path / "main" / "lost", failed)
    (folder / "error.txt").write_text("Traceback\n  File x\nValueError: loss is <nan>\n\n")
    write(tmp_path / "main" / "silent", failed | {"seed": 8})
    text = Seen(page(tmp_path)).text
    assert "lost failed 7 ValueError: loss is <nan>" in text
    assert "silent failed 8 not recorded" in text
    assert "8 runs: 6 done, 2 failed" in text


@pytest.mark.usefixtures("undrawn")
def test_settings_of_all_are_said_once_and_a_run_has_its_own(tmp_path: Path) -> None:
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", (2.0,) * 6)
    text = page(tmp_path)
    assert text.count("<code>model.widths=[256,256]</code>") == 1
    assert text.count("<code>strategy.rate=0.5</code>") == 6
    assert text.count("<code>seed=3</code>") == 2


@pytest.mark.usefixtures("undrawn")
def test_numbers_have_a_key_where_their_text_is_none(tmp_path: Path) -> None:
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", (2.0,) * 6)
    keys = {attributes.get("data-key") for tag, attributes in Seen(page(tmp_path)).tags if tag == "td"}
    assert "-1.5" in keys  # the difference, and the middle of its interval
    assert "2" in keys  # the middle of [2.00, 2.00]
    assert "123" in keys  # 123 MB
    assert "" in keys  # what the baseline has no value for


# ---- how to reproduce


@pytest.mark.usefixtures("undrawn")
def test_commands_versions_and_a_warning(tmp_path: Path) -> None:
    dirty = RECORD | {"git": RECORD["git"] | {"dirty": True}, "command": ["dropbench", "train", "study=a b;rm -rf ~"]}  # type: ignore[operator]
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", (2.0, 2.0), record=dirty)
    runs(tmp_path, "gradual", (2.0,), record=None)
    seen = Seen(page(tmp_path))
    assert (
        "git checkout 0123456789abcdef0123456789abcdef01234567 pip install . torch==2.13.0 numpy==2.4.6 "
        "dropbench train -m strategy=none,standard 'seed=range(0,6)'"
    ) in seen.text
    assert "dropbench train 'study=a b;rm -rf ~'" in seen.text
    assert seen.text.count("The code had been changed since commit 0123456789ab:") == 1
    assert "1 run without a record of code and machine" in seen.text
    found = origins(read([tmp_path]))
    assert {code.dirty: commands.total() for code, commands in found.commands.items()} == {False: 6, True: 2}
    assert (found.silent, found.days) == (1, ["2026-01-02"] * 8)


@pytest.mark.usefixtures("undrawn")
def test_outside_a_checkout_the_version_is_installed(tmp_path: Path) -> None:
    runs(tmp_path, "standard", (2.0,), record=RECORD | {"git": None})
    text = Seen(page(tmp_path)).text
    assert "pip install dropbench==0.1.0 torch==2.13.0 numpy==2.4.6" in text
    assert "git checkout" not in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 5000,
        '{"git": [], "versions": 3, "hardware": {"name": [1], "threads": true}, "data": {"sha256": 4}}',
        '{"command": [1, {"a": 2}], "started": 7}',
        '{"versions": {"torch; rm -rf ~": "1", "torch": "1\\n$(rm)"}, "git": {"commit": "a b; rm", "dirty": "yes"}}',
    ],
)
def test_whatever_a_record_holds_the_page_comes(tmp_path: Path, content: str) -> None:
    runs(tmp_path, "standard", (2.0, 2.5))
    (tmp_path / "main" / "digits-standard-0.5-s0" / "record.json").write_text(content)
    text = Seen(page(tmp_path)).text
    assert "reaches a test error of 2.25" in text
    assert "rm" not in re.findall(r"[a-z]+", text.partition("How to reproduce")[2])


@pytest.mark.usefixtures("undrawn")
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    runs(tmp_path, "standard", (2.0,), record=None)
    folder = write(tmp_path / "main" / "lost", result(7) | {"status": "failed"})
    os.mkfifo(folder / "error.txt")
    os.mkfifo(folder / "record.json")
    assert "lost failed 7 not recorded" in Seen(page(tmp_path)).text


@pytest.mark.usefixtures("undrawn")
def test_settings_of_any_shape(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    settings = {"deep": deep, "long": "x" * 100_000, "map": {"a": [None, True]}, "\u202e": "\x07"}
    runs(tmp_path, "standard", (2.0,), settings=settings | {f"many.{i}": i for i in range(5000)})
    text = page(tmp_path)
    assert len(text) < 400_000
    assert "\u202e" not in text
    assert "\x07" not in text


# ---- pictures


def test_pictures_stand_in_the_page_and_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", (2.0,) * 6)
    seen = Seen(page(tmp_path))
    assert sum(tag == "svg" for tag, _ in seen.tags) == 5
    for name in ("Differences to the baseline", "Error against rate", "Learning curves", "Generalisation gap"):
        assert name in seen.text
    assert re.search(r"Calibration: .*12 runs", seen.text)
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("undrawn")
def test_without_matplotlib_the_page_says_what_to_install(tmp_path: Path) -> None:
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", (2.0,) * 6)
    seen = Seen(page(tmp_path))
    assert "Pictures need matplotlib: pip install 'dropbench[plot]'" in seen.text
    assert not any(tag == "svg" for tag, _ in seen.tags)
    assert "better" in seen.text


# ---- a page of its own


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", (2.0,) * 6)
    assert page(tmp_path) == page(tmp_path)


def test_the_policy_names_the_one_style_and_the_one_script(tmp_path: Path) -> None:
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", (2.0,) * 6)
    seen = Seen(page(tmp_path))
    policy = next(a["content"] for tag, a in seen.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    for what in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(seen.code[what].encode()).digest()).decode()
        assert f"{what}-src 'sha256-{digest}'" in policy
        assert sum(tag == what for tag, _ in seen.tags) == 1
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_nothing_is_asked_for_and_nothing_acts_beside_the_script(tmp_path: Path) -> None:
    runs(tmp_path, "none", NONE, rate=0.0)
    runs(tmp_path, "standard", (2.0,) * 6)
    seen = Seen(page(tmp_path))
    for tag, attributes in seen.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "form", "base", "foreignobject", "image")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("style", "src", "srcset", "action", "data"), (tag, name)
            assert name not in ("href", "xlink:href") or (value or "").startswith("#"), (tag, value)
    assert "url(" not in seen.code["style"]
    assert "@import" not in seen.code["style"]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(page(runs(tmp_path_factory.mktemp("usual"), "none", NONE, rate=0.0)))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_contains_markup_is_text(tmp_path: Path, usual: Seen, name: str) -> None:
    runs(tmp_path, "none", NONE, rate=0.0, record=None)
    runs(tmp_path, name, (2.0,) * 6, optimizer=name, study=name, settings={name: name},
         record=RECORD | {"command": ["dropbench", name], "hardware": {"name": name}})  # fmt: skip
    folder = write(tmp_path / "main" / "lost", result(7) | {"status": "failed"})
    (folder / "error.txt").write_text(name.replace("\n", " "))
    hostile = page(tmp_path)
    seen = Seen(hostile)
    assert {tag for tag, _ in seen.tags} <= {tag for tag, _ in usual.tags}
    assert seen.code["script"] == usual.code["script"]
    shown = " ".join(clean(name).split())
    assert f"On digits with mlp , {shown} 0.5 has the lowest" in seen.text
    titles = [f"dropbench: {both}" for both in (f"main and {shown}", f"{shown} and main")]
    assert any(seen.text.startswith(f"{title} {title} ") for title in titles)
    assert seen.text.count(shown) > 10
    assert not re.search("[\u202e\x00-\x08\x0b-\x1f]", hostile)


# ---- on the disk


def test_saving(tmp_path: Path) -> None:
    save("<p>\u2212</p>", tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_bytes() == "<p>\u2212</p>".encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    with pytest.raises(UserError, match=r"page\.htlm: \.htlm; allowed: \.html, \.htm; nearest: \.htm"):
        save("", tmp_path / "page.htlm")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match=r"folder\.html: this is a folder"):
        save("", tmp_path / "folder.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out=.*file/page\.html: "):
        save("", tmp_path / "file" / "page.html")


# ---- in a browser


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("no chromium: apt-get install chromium")
    with browser(program) as found:
        yield found


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("example")
    runs(root, "none", NONE, rate=0.0)
    runs(root, "standard", (2.0,) * 6)
    runs(root, "gradual", (10.0, 9.0, 11.0, 10.0, 9.5, 10.5), rate=0.3)
    folder = write(root / "main" / "lost", result(7, strategy="layerwise") | {"status": "failed"})
    (folder / "error.txt").write_text("ValueError: loss is not finite\n")
    write(root / "main" / "torn", '{"status": "do')
    save(page(root), root / "page.html")
    return root / "page.html"


def column(chrome: Browser, table: str, head: str) -> list[str]:
    return list(
        chrome.do(
            f"""(() => {{
              const table = document.getElementById({json.dumps(table)});
              const at = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === {json.dumps(head)});
              return [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[at].innerText.trim());
            }})()"""
        )
    )


def click(chrome: Browser, table: str, head: str) -> str | None:
    """Clicks on a header, and says how it is sorted then."""
    found = chrome.do(
        f"""(() => {{
          const cells = [...document.getElementById({json.dumps(table)}).tHead.rows[0].cells];
          const cell = cells.find(cell => cell.textContent === {json.dumps(head)});
          cell.querySelector("[role=button]").click();
          return cell.getAttribute("aria-sort");
        }})()"""
    )
    return None if found is None else str(found)


def test_the_browser_sees_what_a_page_does_wrong(chrome: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><meta http-equiv=Content-Security-Policy "
        "content=\"default-src 'none'; script-src 'unsafe-inline'\">"
        "<img src=http://127.0.0.1:9/x.png><style>p{}</style><script>undefined.x</script>"
    )
    chrome.open(bad)
    told = "\n".join(chrome.complaints())
    assert "TypeError" in told
    assert "style" in told
    bad.write_text("<!DOCTYPE html><img src=http://127.0.0.1:9/x.png>")
    chrome.open(bad)
    assert any("x.png" in url for url in chrome.requests())
    assert chrome.do("performance.getEntriesByType('resource').length") == 1


def test_it_renders_without_a_complaint_or_a_request(chrome: Browser, example: Path) -> None:
    chrome.look()
    chrome.open(example)
    assert chrome.complaints() == []
    assert chrome.requests() == []
    assert chrome.do("performance.getEntriesByType('resource').length") == 0
    assert chrome.do("document.querySelectorAll('h1, main').length") == 2
    assert chrome.do("[...document.querySelectorAll('figure svg')].every(svg => svg.getBBox().width > 100)")
    strokes = chrome.do("[...document.querySelectorAll('figure svg path')].map(path => getComputedStyle(path).stroke)")
    assert "rgb(0, 114, 178)" in strokes  # the classes of the pictures act
    assert chrome.do("[...document.querySelectorAll('table')].every(table => table.caption && table.tHead)")
    assert chrome.do("[...document.querySelectorAll('th')].every(head => head.scope === 'col')")
    assert chrome.do("[...document.querySelectorAll('nav a')].every(link => document.querySelector(link.hash))")


def test_a_click_on_a_header_sorts_numbers_as_numbers(chrome: Browser, example: Path) -> None:
    chrome.open(example)
    before = column(chrome, "compare-0", "test error %")
    assert before == ["2.00", "3.50", "10.00", "\u2013"]
    assert click(chrome, "compare-0", "test error %") == "ascending"
    assert column(chrome, "compare-0", "test error %") == before
    assert click(chrome, "compare-0", "test error %") == "descending"
    assert column(chrome, "compare-0", "test error %") == ["10.00", "3.50", "2.00", "\u2013"]  # an absent one is last
    assert click(chrome, "compare-0", "difference") == "ascending"
    assert column(chrome, "compare-0", "difference") == ["\u22121.50", "+6.50", "\u2013", "\u2013"]
    assert chrome.do("document.querySelectorAll('#compare-0 [aria-sort]').length") == 1
    assert click(chrome, "compare-0", "difference") == "descending"
    assert click(chrome, "compare-0", "difference") is None
    assert column(chrome, "compare-0", "test error %") == before
    assert click(chrome, "all-runs", "run") == "ascending"
    names = column(chrome, "all-runs", "run")
    assert names == sorted(names)
    assert len(names) == 20


def test_the_keyboard_sorts_too(chrome: Browser, example: Path) -> None:
    chrome.open(example)
    chrome.do("document.querySelector('#compare-0 th.n [role=button]').focus()")
    head = "document.querySelector('#compare-0 th.n').getAttribute('aria-sort')"
    chrome.press("Enter", "\r")
    assert chrome.do(head) == "ascending"
    chrome.press(" ", " ")
    assert chrome.do(head) == "descending"


def test_runs_are_found_by_words(chrome: Browser, example: Path) -> None:
    chrome.open(example)
    chrome.do("document.getElementById('wanted').focus()")
    chrome.call("Input.insertText", text="Gradual 11.50")
    assert column(chrome, "all-runs", "run") == ["digits-gradual-0.3-s2"]
    assert chrome.do("document.querySelector('#filter output').value") == "1 of 20 runs"


def test_dark_and_light(chrome: Browser, example: Path) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    chrome.look(scheme="light")
    chrome.open(example)
    light = chrome.do(background)
    chrome.look(scheme="dark")
    dark = chrome.do(background)
    assert light != dark
    chrome.do("document.getElementById('system').focus()")
    chrome.press("ArrowRight")
    assert chrome.do("document.querySelector('input:checked').id") == "light"
    assert chrome.do(background) == light
    chrome.press("ArrowRight")
    chrome.look(scheme="light")
    assert chrome.do(background) == dark


def test_it_works_without_scripts(chrome: Browser, example: Path) -> None:
    chrome.look()
    chrome.open(example, script=False)
    assert chrome.do("document.querySelectorAll('[role=button]').length") == 0
    assert chrome.do("document.getElementById('filter').checkVisibility()") is False
    assert chrome.do("document.getElementById('compare-0').checkVisibility()") is True
    light = chrome.do("getComputedStyle(document.body).color")
    chrome.do("document.getElementById('dark').checked = true")
    assert chrome.do("getComputedStyle(document.body).color") != light


CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const linear = (x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = rgb(colour).slice(0, 3).map((x) => linear(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (rgb(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const found = [];
  for (const element of document.querySelectorAll("body *:not(script)")) {
    if (element.closest("svg") || !element.checkVisibility()) continue;
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    const [one, other] = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (other + 0.05);
    if (contrast < 4.5) found.push(`${element.className || element.tagName}: ${contrast.toFixed(2)}`);
  }
  return found;
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_that_of_wcag_aa(chrome: Browser, example: Path, scheme: str) -> None:
    chrome.look(scheme=scheme)
    chrome.open(example)
    chrome.do("for (const each of document.querySelectorAll('details')) each.open = true")
    assert chrome.do(CONTRASTS) == []


def test_on_a_phone_tables_scroll_in_their_own_box(chrome: Browser, example: Path) -> None:
    chrome.look(width=360, height=700)
    chrome.open(example)
    assert chrome.do("document.documentElement.scrollWidth") == 360
    assert chrome.do("(box => box.scrollWidth > box.clientWidth)(document.getElementById('compare-0').parentElement)")
    assert chrome.do("[...document.querySelectorAll('.box')].every(box => box.tabIndex === 0)")


def test_on_paper_it_is_light_and_whole(chrome: Browser, example: Path) -> None:
    chrome.look(scheme="dark", medium="print")
    chrome.open(example)
    chrome.do("document.getElementById('dark').checked = true")
    assert chrome.do("getComputedStyle(document.body).color") == "rgb(27, 29, 31)"
    for name in ("nav", ".theme", "#filter", ".hint"):
        assert chrome.do(f"document.querySelector('{name}').checkVisibility()") is False
    boxes = chrome.do("[...document.querySelectorAll('.box')].map(box => getComputedStyle(box).overflow)")
    assert set(boxes) == {"visible"}
    assert chrome.pdf().startswith(b"%PDF-")
    chrome.look()


def test_hostile_names_do_nothing(chrome: Browser, tmp_path: Path) -> None:
    for place, name in enumerate(HOSTILE):
        record = RECORD | {"command": [name], "hardware": {"name": name, "device": name}}
        changes = {"optimizer": name, "dataset": name, "model": name, "settings": {name: name}, "group": f"g{place}"}
        runs(tmp_path, name, (2.0, 2.5), record, **changes)
    folder = write(tmp_path / "main" / "lost", result(7) | {"status": "failed"})
    (folder / "error.txt").write_text("".join(HOSTILE).replace("\n", " "))
    save(page(tmp_path, name="".join(HOSTILE)), tmp_path / "page.html")
    chrome.look()
    chrome.open(tmp_path / "page.html")
    assert chrome.complaints() == []
    assert chrome.requests() == []
    assert chrome.do("typeof window.pwned") == "undefined"
    assert chrome.do("document.title") == " ".join(clean("".join(HOSTILE)).split())
    assert chrome.do("document.querySelectorAll('script, img, b, svg svg').length") == 1
    for name in HOSTILE:
        assert clean(name) in chrome.do("document.querySelector('#all-runs').textContent")


def test_a_thousand_runs(chrome: Browser, tmp_path: Path) -> None:
    settings = {f"optimizer.setting_{i}": i for i in range(40)}
    for strategy in ("none", "standard", "gradual", "layerwise", "rdrop"):
        for rate in (0.0,) if strategy == "none" else (0.1, 0.3, 0.5, 0.7):
            errors = [2 + rate / 3 + (seed * 37 % 100) / 50 for seed in range(60)]
            runs(tmp_path, strategy, errors, rate=rate, settings=settings)
    text = page(tmp_path)
    assert len(text.encode()) < 2_000_000
    save(text, tmp_path / "page.html")
    chrome.look()
    chrome.open(tmp_path / "page.html")
    assert chrome.complaints() == []
    assert click(chrome, "all-runs", "test error %") == "ascending"
    figures = [float(value) for value in column(chrome, "all-runs", "test error %")]
    assert len(figures) == 1020
    assert figures == sorted(figures)
