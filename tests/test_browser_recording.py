"""Recording from the page: the red button, the privacy panel, links, and session files opened."""

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from backend.protocol import Emotion
from backend.recordings.store import StoreOptions
from backend.serving.process import ServingOptions
from bench.gallery import FOLDER
from tests.browsing import WAIT_MS, open_page, part
from tests.scripted import ScriptedEngine, ScriptedReply
from tests.serving import serving

FIRST = ScriptedReply("You said seven.", Emotion.HAPPY)
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  document.querySelector('h1').dispatchEvent(
    new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }));
}"""

Visit = Callable[[], Page]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server records."""
    return tmp_path_factory.mktemp("kept") / "recordings"


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    options = ServingOptions(recordings=StoreOptions(folder, may_share=True))
    with serving(ScriptedEngine([FIRST]), options=options) as address:
        yield address


@pytest.fixture
def visit(quiet_browser: Browser, address: str) -> Iterator[Visit]:
    """Opens the live page, each time in a profile of its own."""
    contexts: list[BrowserContext] = []

    def visit() -> Page:
        page = open_page(quiet_browser, address, locale="en-US")
        contexts.append(page.context)
        return page

    yield visit
    for context in contexts:
        context.close()


def record(page: Page, title: str = "Seven") -> None:
    """Press the red button, and say seven."""
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_label("Title").fill(title)
    page.get_by_role("button", name="Start recording").click()
    expect(page.locator(part("recordingLight"))).to_contain_text("recording 0:0")
    page.get_by_role("button", name="Seven", exact=True).click()
    reply = page.locator(part("turns")).locator("li[data-emotion]").last
    expect(reply).to_contain_text(FIRST.text)


def drop(page: Page, name: str, content: bytes) -> None:
    page.evaluate(DROP, [name, base64.b64encode(content).decode()])


def stored(folder: Path) -> set[str]:
    """Ids of the recordings that the server holds, going on or not."""
    return {path.name.split(".")[0] for path in folder.glob("*.aisession*")}


def test_recording_from_the_button_to_its_deletion(visit: Visit, folder: Path) -> None:
    before = stored(folder)
    page = visit()
    foot = page.locator(part("recordedNow"))
    page.click(part("start"))
    expect(page.locator(part("state"))).to_have_text("LISTENING")
    expect(foot).to_have_text("Not recorded.")
    assert stored(folder) == before
    record(page)
    expect(foot).to_have_text("Being recorded.")
    page.get_by_role("button", name=re.compile("Stop recording")).click()
    expect(page.locator(part("recordingLight"))).to_be_hidden()
    expect(foot).to_have_text("Not recorded.")
    expect(page.locator(part("state"))).to_have_text("LISTENING")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the recording").click()
    replay = opened.value
    expect(replay.get_by_role("heading", level=1)).to_have_text("Seven")
    expect(replay.locator(part("turns")).locator("li:not(.spoken)")).to_contain_text(FIRST.text)
    page.click(part("openPrivacy"))
    privacy = page.get_by_role("dialog", name="Privacy")
    expect(privacy).to_contain_text("Nothing: no online voice was asked to read a reply")
    privacy.get_by_role("button", name="Your recordings…").click()
    recordings = page.get_by_role("dialog", name="Recordings")
    expect(recordings.get_by_role("link", name="Seven")).to_be_visible()
    recordings.get_by_role("button", name="Rename").click()
    recordings.get_by_label("Title").fill("Lucky seven")
    page.keyboard.press("Enter")
    expect(recordings.get_by_role("link", name="Lucky seven")).to_be_visible()
    for name in ("Delete", "Delete for good?"):
        recordings.get_by_role("button", name=name, exact=True).click()
    expect(recordings).to_contain_text("None yet.")
    assert stored(folder) == before
    replay.reload()
    expect(replay.get_by_role("alert")).to_contain_text("There is no such recording")


def test_recording_ends_with_the_conversation_and_all_can_be_deleted(
    visit: Visit, folder: Path
) -> None:
    before = stored(folder)
    page = visit()
    for title in ("One", ""):
        record(page, title)
        page.click(part("start"))
        expect(page.locator(part("recordingLight"))).to_be_hidden()
        expect(page.locator(part("kept"))).to_contain_text("It stays on this server until you")
    # Another profile has none of them; this one remembers.
    other = visit()
    other.click(part("openPrivacy"))
    expect(other.get_by_role("dialog", name="Privacy")).to_contain_text("Nothing of yours.")
    page.reload()
    page.wait_for_selector("[data-ready]")
    page.click(part("openRecordings"))
    recordings = page.locator(part("recordings")).locator("li")
    expect(recordings).to_have_count(2)
    expect(recordings.last).to_contain_text("One")
    page.get_by_role("button", name="Delete all").click()
    page.get_by_role("button", name="Delete for good?").click()
    expect(recordings).to_have_count(0)
    assert stored(folder) == before


def test_shared_link_opens_and_ends(visit: Visit, quiet_browser: Browser) -> None:
    page = visit()
    record(page)
    page.click(part("start"))
    page.click(part("openRecordings"))
    page.get_by_role("button", name="Share…").click()
    page.get_by_role("button", name="Make a link").click()
    link = page.get_by_label(re.compile("^Link, until")).input_value()
    guest = quiet_browser.new_context(locale="en-US").new_page()
    guest.set_default_timeout(WAIT_MS)
    guest.goto(link)
    expect(guest.get_by_role("heading", level=1)).to_have_text("Seven")
    expect(guest.locator(part("forkSection"))).to_be_hidden()
    expect(guest.locator(part("openShare"))).to_be_hidden()
    page.get_by_role("button", name="End", exact=True).click()
    expect(page.locator(part("links")).locator("li")).to_have_count(0)
    guest.reload()
    expect(guest.get_by_role("alert")).to_contain_text("This link has ended")
    guest.context.close()


def test_session_file_that_is_dropped_is_opened(visit: Visit, folder: Path) -> None:
    before = stored(folder)
    page = visit()
    content = (FOLDER / "order.aisession").read_bytes()
    drop(page, "broken.aisession", content[:5000])
    expect(page.get_by_role("alert")).to_contain_text("refused")
    assert stored(folder) == before
    # A conversation that goes on is not left.
    page.click(part("start"))
    expect(page.locator(part("state"))).to_have_text("LISTENING")
    drop(page, "order.aisession", content)
    expect(page.locator(part("kept"))).to_contain_text("The session file was read.")
    page.click(part("start"))
    expect(page.locator(part("state"))).to_have_text("NOT LISTENING")
    drop(page, "order.aisession", content)
    page.wait_for_url(re.compile("/live/replay.html#recording="))
    expect(page.get_by_role("heading", level=1)).to_have_text("A coffee order")


def test_full_server_says_so_and_nobody_talks_unrecorded(
    quiet_browser: Browser, tmp_path: Path
) -> None:
    options = ServingOptions(recordings=StoreOptions(tmp_path / "full", max_mb=0.001))
    with serving(ScriptedEngine([FIRST]), options=options) as address:
        page = open_page(quiet_browser, address, locale="en-US")
        page.get_by_role("button", name="Record", exact=True).click()
        page.get_by_role("button", name="Start recording").click()
        expect(page.get_by_role("alert")).to_contain_text("no room for recordings")
        expect(page.locator(part("state"))).to_have_text("NOT LISTENING")
        expect(page.locator(part("recordedNow"))).to_have_text("Not recorded.")
        page.context.close()


def test_recording_is_annotated_with_keys(visit: Visit) -> None:
    page = visit()
    drop(page, "wake.aisession", (FOLDER / "wake-word.aisession").read_bytes())
    expect(page.get_by_role("heading", level=1)).to_contain_text("wake word")
    replies = page.locator(part("turns")).locator("li[data-emotion]")
    right = replies.first.get_by_role("button", name="Right", exact=True)
    right.press("r")  # of the row that has the focus
    expect(right).to_have_attribute("aria-pressed", "true")
    expect(right).to_be_focused()
    right.press("n")
    page.get_by_label("Note", exact=True).fill("It heard me at once.")
    page.get_by_label("Note", exact=True).press("Control+Enter")
    expect(replies.first).to_contain_text("It heard me at once.")
    # Without a reply there, it is about what is heard at that place.
    page.locator("body").press("Home")
    page.evaluate("document.activeElement.blur()")
    for key in ("[", "ArrowRight", "ArrowRight", "]"):
        page.keyboard.press(key)
    expect(page.locator(part("annotationUntil"))).to_have_value("2")
    page.get_by_label("Wrong", exact=True).check()
    page.get_by_role("button", name="Save", exact=True).click()
    span = page.locator(part("turns")).locator("li").first
    expect(span).to_contain_text("to 0:01.2")
    page.reload()
    expect(span.get_by_role("button", name="Wrong", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(replies.first).to_contain_text("It heard me at once.")
    # What was said is in the file, and shows in the list of recordings.
    page.get_by_role("link", name="Live page").click()
    page.click(part("openRecordings"))
    expect(page.locator(part("recordings"))).to_contain_text("right 1, wrong 1, notes 1")
