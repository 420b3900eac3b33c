"""The local page: this machine's microphone and loudspeaker, a server near or far.

`make local` serves it with Streamlit. The conversation goes on beside it, one for each browser.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, BinaryIO

import streamlit as st

from client.address import DEFAULT_SERVER, ServerAddress
from client.background import BackgroundConversation
from client.clips import FILE_KINDS, Clip, Sample, credit_lines, load_samples
from client.live import Live, LiveOptions
from client.messages import LANGUAGE_NAMES, ClientError, Language, Message, message
from client.session import Recording, Voice
from client.sound_card import Device, SoundCard
from client.words import Words
from webui import local_panel

ACCESS_KEY_VARIABLE = "AUDIO_INTERACTION_ACCESS_KEY"
LOOK_SECONDS = 0.25
AUTOMATIC_VOICE = "auto"
NO_DEVICE = "none"
SYSTEM_DEVICE = "system"
LONGEST_TITLE = 120
LONGEST_TEXT = 2000
MOST_FILE_MB = 200
# Streamlit pales what it is about to draw again, which is several times a second here, says in
# English that Enter applies, and leaves a fifth of the window empty.
STEADY = (
    "<style>[data-stale] { opacity: 1 !important; transition: none !important; } "
    "[data-testid=InputInstructions] { display: none; } "
    "[data-testid=stMainBlockContainer] { padding: 3rem clamp(1rem, 3vw, 4rem) 2rem; }</style>"
)
# Streamlit serves `webui/static/` at `app/static/`, as .streamlit/config.toml says.
PANEL = """
export default function ({ parentElement, data, setTriggerValue }) {
  import(new URL('app/static/local-panel.js', document.baseURI)).then(({ show }) =>
    show(parentElement, data, (chunk) => setTriggerValue('chunk', chunk)));
}
"""


@dataclass(frozen=True, slots=True)
class Devices:
    """What can be chosen, or why nothing can."""

    inputs: list[Device]
    outputs: list[Device]
    problem: Message | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What of a conversation other parts of the page depend on than its pictures."""

    is_running: bool = False
    has_microphone: bool = False
    is_recording: bool = False
    playing: str | None = None
    num_voices: int = 0


@dataclass(slots=True)
class Visitor:
    """What one browser has here."""

    conversation: BackgroundConversation | None = None
    num_conversations: int = 0
    """How many there were."""
    options: LiveOptions | None = None
    """Those that the conversation has been told."""
    has_microphone: bool = True
    """Whether it is to have one: what was begun by typing or playing listens when asked to."""
    problem: Message | None = None
    devices: Devices | None = None
    """As they were when the page was opened, or the user looked again."""
    voices: tuple[Voice, ...] = ()
    """Of the last server."""

    @property
    def is_running(self) -> bool:
        """Whether a conversation goes on."""
        return self.conversation is not None and self.conversation.is_running

    @property
    def status(self) -> Status:
        """That of the conversation."""
        conversation = self.conversation
        if conversation is None or not conversation.is_running:
            return Status()
        return conversation.look(
            lambda live: Status(
                True,
                live.has_microphone,
                live.session.is_recording,
                live.playing,
                len(live.session.voices),
            )
        )

    def start(self, chosen: "Chosen", *, has_microphone: bool, title: str | None = None) -> None:
        """Begin a conversation."""
        self.stop()
        self.problem = None
        self.has_microphone = has_microphone
        try:
            address = ServerAddress.parse(chosen.server, chosen.access_key or None)
        except ClientError as error:
            self.problem = error.message
            return
        self.options = replace(self.wanted(chosen.options), recording_title=title)
        self.conversation = BackgroundConversation(address, self.options)
        self.num_conversations += 1

    def stop(self) -> None:
        """End it, if one goes on."""
        if self.conversation is not None:
            self.conversation.close()

    def wanted(self, options: LiveOptions) -> LiveOptions:
        """What was chosen, but for a microphone that was not asked for."""
        return replace(options, has_microphone=options.has_microphone and self.has_microphone)

    def tell(self, options: LiveOptions) -> None:
        """Have the conversation that goes on follow what is chosen now."""
        if self.options is None or not self.is_running:
            return
        wanted = replace(self.wanted(options), recording_title=self.options.recording_title)
        if wanted != self.options:
            self.options = wanted
            self.do(lambda live: live.change(wanted))

    def do(self, action: Callable[[Live], None]) -> None:
        """In the conversation that goes on, if one does."""
        if self.conversation is not None:
            self.conversation.do(action)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The settings beside the page."""

    server: str
    access_key: str
    options: LiveOptions


@st.cache_resource(scope="session", on_release=Visitor.stop, show_spinner=False)
def visitor() -> Visitor:
    """This browser's; when the browser leaves, its conversation ends."""
    return Visitor()


@cache
def samples() -> dict[str, Sample]:
    """Those that come with the application, by the names of their files."""
    return {sample.path.stem: sample for sample in load_samples()}


def main() -> None:
    """Draw the page."""
    st.set_page_config("Audio-Interaction Live", layout="wide", menu_items={})
    st.html(STEADY)
    st.markdown("#### Audio-Interaction Live")
    words = Words(language())
    before: Status = st.session_state.get("status", Status())
    st.session_state["status"] = status = visitor().status
    run_every = LOOK_SECONDS if status.is_running else None
    chosen = settings(words, status)
    visitor().tell(chosen.options)
    left, right = st.columns([5, 3], gap="large")
    with left:
        controls(words, before, status, chosen)
        st.fragment(now, run_every=run_every)(words)
        soundboard(words, status, chosen)
    with right:
        typing(words, chosen)
        st.fragment(said, run_every=run_every)(words)


def language() -> Language:
    """The one that was chosen, else the browser's."""
    if "language" not in st.session_state:
        st.session_state["language"] = Language.of(st.context.locale)
    spoken: Language = st.session_state["language"]
    return spoken


# The side bar


def settings(words: Words, status: Status) -> Chosen:
    """What a conversation begins with, and what can be changed while it goes on."""
    given = {"server": DEFAULT_SERVER, "access_key": os.environ.get(ACCESS_KEY_VARIABLE, "")}
    for key, value in given.items():
        # A field that is disabled by the click that leaves it would show what was there before.
        if status.is_running or key not in st.session_state:
            st.session_state[key] = st.session_state.get(key, value)
    with st.sidebar:
        server = st.text_input(words("server"), disabled=status.is_running, key="server")
        access_key = st.text_input(
            words("setting.accessKey"),
            type="password",
            disabled=status.is_running,
            help=words("access_key.help"),
            key="access_key",
        )
        options = sound(words, status)
        bias = st.slider(
            words("eagerness.label"),
            -4.0,
            4.0,
            0.0,
            0.25,
            key="bias",
            help=words("eagerness.help"),
        )
        st.caption(words("echo.advice"))
        st.segmented_control(
            words("setting.language"),
            list(Language),
            format_func=lambda name: LANGUAGE_NAMES[name],
            required=True,
            key="language",
        )
    return Chosen(server, access_key, replace(options, decision_bias=bias))


def sound(words: Words, status: Status) -> LiveOptions:
    """Microphone, loudspeaker and voice."""
    found = devices(words)
    if found.problem:
        st.warning(words.of(found.problem))
    microphone = choose_device("microphone", words("setting.inputDevice"), found.inputs, words)
    loudspeaker = choose_device("loudspeaker", words("setting.outputDevice"), found.outputs, words)
    # While a conversation has a sound card open, what was connected later does not appear.
    if st.button(words("device.look_again"), disabled=status.is_running, key="look_again"):
        visitor().devices = None
        st.rerun()
    has_loudspeaker = loudspeaker != NO_DEVICE
    speaks = st.toggle(words("speak"), key="speaks", disabled=not has_loudspeaker)
    return LiveOptions(
        has_microphone=microphone != NO_DEVICE,
        has_loudspeaker=has_loudspeaker,
        input_device=None if microphone == SYSTEM_DEVICE else microphone,
        output_device=None if loudspeaker == SYSTEM_DEVICE else loudspeaker,
        speaks_replies=speaks and has_loudspeaker,
        voice=choose_voice(words),
        is_muted=bool(st.session_state.get("muted")),
    )


def devices(words: Words) -> Devices:
    """Those that this browser was told last; asking takes a moment."""
    if (found := visitor().devices) is None:
        with st.spinner(words("device.looking")):
            found = visitor().devices = look_for_devices()
    return found


def look_for_devices() -> Devices:
    """The sound cards of this machine."""
    try:
        card = SoundCard()
    except ClientError as error:
        return Devices([], [], error.message)
    try:
        found = card.devices()
    finally:
        card.close()
    inputs = [device for device in found if device.num_inputs]
    outputs = [device for device in found if device.num_outputs]
    problem = None if inputs and outputs else message("device.none_found")
    return Devices(inputs, outputs, problem)


def choose_device(kind: str, label: str, found: list[Device], words: Words) -> str:
    """The number of the device that was chosen, or one of the other choices."""
    names = {SYSTEM_DEVICE: words("device.system")} if found else {}
    names |= {str(device.number): device.name for device in found}
    names |= {NO_DEVICE: words(f"device.no_{kind}")}
    chosen: str = st.selectbox(label, list(names), format_func=lambda it: names[it], key=kind)
    return chosen


def choose_voice(words: Words) -> str:
    """The server tells its voices when a conversation begins."""
    if (conversation := visitor().conversation) is not None:
        visitor().voices = (
            conversation.look(lambda live: tuple(live.session.voices)) or visitor().voices
        )
    names = {AUTOMATIC_VOICE: words("voice.auto")}
    names |= {voice.id: voice.label for voice in visitor().voices}
    chosen: str = st.selectbox(
        words("setting.voice"),
        list(names),
        format_func=lambda voice: names[voice],
        help=f"{words('help.voice')} {words('voice.later')}",
        key="voice",
    )
    return chosen


# Buttons


def controls(words: Words, before: Status, status: Status, chosen: Chosen) -> None:
    """Start and stop, the recording, the microphone and the reply."""
    with st.container(horizontal=True, vertical_alignment="center"):
        is_pressed = st.button(
            words("stop" if status.is_running else "start"),
            type="secondary" if status.is_running else "primary",
            key="start",
        )
        if is_pressed:
            # As the button said when it was pressed, whatever has happened since.
            if before.is_running:
                visitor().stop()
            else:
                visitor().start(chosen, has_microphone=True)
            st.rerun()
        record(words, status, chosen)
        can_listen = chosen.options.has_microphone
        if status.is_running and can_listen and not status.has_microphone:
            st.button(words("microphone.use"), key="use_microphone", on_click=use_microphone)
        else:
            st.toggle(words("mute"), key="muted", disabled=not can_listen)
        st.button(
            words("stopReply"),
            disabled=not status.is_running,
            key="stop_reply",
            shortcut="Esc",
            on_click=visitor().do,
            args=(Live.stop_reply,),
        )


def record(words: Words, status: Status, chosen: Chosen) -> None:
    """A title is asked for, and what it means is said, before anything is recorded."""
    if status.is_recording:
        stop = words("record.stop")
        st.button(stop, key="stop_recording", on_click=visitor().do, args=(Live.stop_recording,))
        return
    with st.popover(words("record")):
        st.write(words("record.about"))
        if status.is_running:
            st.write(words("record.ends"))
        with st.form("recording", border=False):
            title = st.text_input(words("record.name"), max_chars=LONGEST_TITLE, key="title")
            begins = st.form_submit_button(words("record.begin"), type="primary", key="record")
        if begins:
            visitor().start(chosen, has_microphone=True, title=title.strip())
            st.rerun()


def use_microphone() -> None:
    """A conversation that was begun by typing or playing listens from now on."""
    visitor().has_microphone = True


def soundboard(words: Words, status: Status, chosen: Chosen) -> None:
    """Sample recordings, of which the one that plays is marked."""
    titles = {name: sample.title(words.language) for name, sample in samples().items()}
    if "picked" in st.session_state:
        play_or_stop(st.session_state.pop("picked"), titles, chosen)
        st.rerun()
    playing = next((name for name, title in titles.items() if title == status.playing), None)
    st.session_state["sample"] = playing
    sources = "\n".join(f"* {source}" for source in credit_lines(samples().values()))
    st.pills(
        words("play.label"),
        list(titles),
        format_func=lambda name: titles[name],
        key="sample",
        on_change=pick_sample,
        wrap=True,
        help=f"{words('play.help')}\n\n{words('section.recordings')}:\n{sources}",
    )
    if status.playing is not None and playing is None:
        stop = words("file.stop", name=status.playing)
        st.button(stop, key="stop_file", on_click=visitor().do, args=(Live.stop_playing,))


def pick_sample() -> None:
    """It is played once the settings are known that a conversation may have to begin with."""
    st.session_state["picked"] = st.session_state["sample"]


def play_or_stop(name: str | None, titles: dict[str, str], chosen: Chosen) -> None:
    """One that plays is picked again to stop it."""
    if name is None:
        visitor().do(Live.stop_playing)
    else:
        play(chosen, Clip(titles[name], samples()[name].path))


def play(chosen: Chosen, clip: Clip) -> None:
    """In the conversation that goes on, or in one of its own."""
    be_open(chosen)
    visitor().do(lambda live: live.play(clip))


def be_open(chosen: Chosen) -> None:
    """Have a conversation; one that begins here has no microphone."""
    if not visitor().is_running:
        visitor().start(chosen, has_microphone=False)


# The conversation


def typing(words: Words, chosen: Chosen) -> None:
    """What is typed instead of spoken, and files to be played."""
    given: Any = st.chat_input(
        words("say.or_add"),
        key="typed",
        max_chars=LONGEST_TEXT,
        accept_file=True,
        file_type=list(FILE_KINDS),
        max_upload_size=MOST_FILE_MB,
    )
    if given:
        send(chosen, given.text, given.files)
        st.rerun()


def send(chosen: Chosen, text: str, files: Sequence[BinaryIO]) -> None:
    """What was typed or attached."""
    visitor().problem = None
    if text.strip():
        be_open(chosen)
        visitor().do(lambda live: live.send_text(text))
    for file in files:
        try:
            clip = Clip(file.name, file)
        except ClientError as error:
            visitor().problem = error.message
        else:
            play(chosen, clip)


def now(words: Words) -> None:
    """What changes all the time."""
    conversation = visitor().conversation
    if (problem := visitor().problem) is not None:
        st.error(words.of(problem))
    if conversation is None:
        show(local_panel.now(not_started(), words), words, "now")
        return
    if conversation.ended_because is not None:
        st.error(words.of(conversation.ended_because))
    told, problems, notice, recording, address = conversation.look(
        lambda live: (
            local_panel.now(live, words),
            live.problems,
            live.notice,
            live.session.recording,
            live.recording_address,
        )
    )
    for problem in problems:
        st.error(words.of(problem))
    if notice is not None:
        st.info(words.of(notice))
    if recording is not None and recording.seconds is not None:
        recorded(words, recording, address)
    show(told, words, "now")
    if visitor().status != st.session_state["status"]:
        st.rerun()  # the buttons, too


def recorded(words: Words, recording: Recording, address: str | None) -> None:
    """Where a recording is, and how it ended."""
    link = f"[{words('record.open')}]({address})"
    if recording.failure is not None:
        st.error(f"{words.recorded(recording)} {link}")
    else:
        st.success(f"{words.recorded(recording)} {link}")


def said(words: Words) -> None:
    """What was said and typed."""
    conversation, number = visitor().conversation, visitor().num_conversations
    if conversation is None:
        show(local_panel.said(not_started(), number), words, "said")
    else:
        show(conversation.look(lambda live: local_panel.said(live, number)), words, "said")


def not_started() -> Live:
    """What is shown before there is a conversation."""
    return Live(ServerAddress.parse(DEFAULT_SERVER), LiveOptions())


def show(told: local_panel.Told, words: Words, key: str) -> None:
    """What a part of the panel is told, in its place."""
    told = told | {"language": words.language, "theme": st.context.theme.type or "light"}
    st.components.v2.component("panel", js=PANEL)(data=told, key=key, on_chunk_change=hear_chunk)


def hear_chunk() -> None:
    """A chunk of the strip was chosen to be heard."""
    chunk = st.session_state["now"]["chunk"]
    if chunk is not None:
        visitor().do(lambda live: live.hear_again(chunk))


if __name__ == "__main__":
    main()
