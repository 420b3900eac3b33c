"""The local page: this machine's microphone and loudspeaker, a server near or far.

`make local` serves it with Streamlit. The conversation goes on beside it, one for each browser.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from client.address import DEFAULT_SERVER, ServerAddress
from client.background import BackgroundConversation
from client.errors import ClientError
from client.live import Live, LiveOptions
from client.sound_card import Device, SoundCard
from webui.local_drawing import SHOW, STYLE, conversation_html, now_html

ACCESS_KEY_VARIABLE = "AUDIO_INTERACTION_ACCESS_KEY"
LOOK_SECONDS = 0.25
NO_SOUND = "none: I only type"
# Streamlit pales what it is about to draw again, which is several times a second here.
STEADY = "<style>[data-stale] { opacity: 1 !important; transition: none !important; }</style>"


@dataclass(frozen=True, slots=True)
class Devices:
    """What can be chosen, or why nothing can."""

    inputs: list[Device]
    outputs: list[Device]
    problem: str | None = None


@dataclass(slots=True)
class Desk:
    """What one browser has here."""

    conversation: BackgroundConversation | None = None
    problem: str | None = None
    devices: Devices | None = None
    """As they were when the page was opened, or the user looked again."""

    @property
    def is_running(self) -> bool:
        """Whether a conversation goes on."""
        return self.conversation is not None and self.conversation.is_running

    def start(self, address: ServerAddress, options: LiveOptions) -> None:
        """Begin a conversation."""
        self.stop()
        self.problem = None
        self.conversation = BackgroundConversation(address, options)

    def stop(self) -> None:
        """End it, if one goes on."""
        if self.conversation is not None:
            self.conversation.close()


@st.cache_resource(scope="session", on_release=Desk.stop, show_spinner=False)
def desk() -> Desk:
    """This browser's; when the browser leaves, its conversation ends."""
    return Desk()


def devices() -> Devices:
    """Those of this browser's desk; asking takes a moment."""
    if (found := desk().devices) is None:
        with st.spinner("Looking for microphones and loudspeakers"):
            found = desk().devices = look_for_devices()
    return found


def look_for_devices() -> Devices:
    """The sound cards of this machine."""
    try:
        card = SoundCard()
    except ClientError as error:
        return Devices([], [], str(error))
    try:
        found = card.devices()
    finally:
        card.close()
    inputs = [device for device in found if device.num_inputs]
    outputs = [device for device in found if device.num_outputs]
    problem = None if inputs and outputs else "No microphone or no loudspeaker was found."
    return Devices(inputs, outputs, problem)


def main() -> None:
    """Draw the page."""
    st.set_page_config("Audio-Interaction Live", layout="wide", menu_items={})
    st.html(STEADY)
    st.markdown("#### Audio-Interaction Live")
    chosen = settings()
    left, right = st.columns([3, 2], gap="large")
    with left:
        controls(chosen)
        is_running = desk().is_running
        st.fragment(now, run_every=LOOK_SECONDS if is_running else None)()
    with right:
        st.markdown("**Conversation**")
        typing()
        st.fragment(said, run_every=LOOK_SECONDS if is_running else None)()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The settings beside the page."""

    server: str
    access_key: str
    options: LiveOptions


def settings() -> Chosen:
    """The side bar."""
    is_running = desk().is_running
    with st.sidebar:
        server = st.text_input("Server", DEFAULT_SERVER, disabled=is_running, key="server")
        access_key = st.text_input(
            "Access key",
            os.environ.get(ACCESS_KEY_VARIABLE, ""),
            type="password",
            disabled=is_running,
            help="Only where the server asks for one.",
            key="access_key",
        )
        found = devices()
        if found.problem:
            st.warning(found.problem)
        has_devices = bool(found.inputs and found.outputs)
        microphone = _choose("Microphone", found.inputs, has_devices, is_running, NO_SOUND)
        loudspeaker = _choose("Loudspeaker", found.outputs, has_devices, is_running, None)
        if st.button(
            "Look again", disabled=is_running, help="After connecting a device.", key="look_again"
        ):
            desk().devices = None
            st.rerun()
        has_sound = has_devices and microphone != NO_SOUND
        speaks = st.toggle(
            "Speak replies", key="speaks", disabled=not has_sound, on_change=change_settings
        )
        voice = st.text_input(
            "Voice",
            "auto",
            disabled=is_running,
            help="auto is an online voice of Microsoft's, which gets the text of replies, or the "
            "server's own where that cannot be reached. espeak:en-us never leaves the server.",
            key="voice",
        )
        bias = st.slider(
            "Eagerness",
            -4.0,
            4.0,
            0.0,
            0.25,
            key="bias",
            on_change=change_settings,
            help="How easily it speaks: shy below 0, eager above.",
        )
        st.caption(
            "There is no echo cancellation here: use headphones, or a quiet loudspeaker. The "
            "server leaves out what it recognises as its own voice."
        )
    options = LiveOptions(
        input_device=microphone,
        output_device=loudspeaker,
        has_sound=has_sound,
        speaks_replies=speaks and has_sound,
        voice=voice,
        decision_bias=bias,
        is_muted=bool(st.session_state.get("muted")),
    )
    return Chosen(server, access_key, options)


def _choose(
    label: str, found: list[Device], has_devices: bool, is_running: bool, other: str | None
) -> str | None:
    """The number of the device that was chosen, as text; None for the system's choice."""
    names: dict[str | None, str] = {None: "the system's choice"} if has_devices else {}
    names |= {str(device.number): device.name for device in found if has_devices}
    if other is not None:
        names[other] = other
    return st.selectbox(
        label,
        list(names),
        format_func=lambda number: names.get(number, str(number)),
        disabled=is_running or not names,
        key=label,
    )


def change_settings() -> None:
    """Tell the conversation that goes on what has changed."""
    speaks = bool(st.session_state["speaks"])
    bias = float(st.session_state["bias"])
    do(lambda live: live.change(speaks_replies=speaks, decision_bias=bias))


def controls(chosen: Chosen) -> None:
    """Start and stop, the microphone and the reply."""
    is_running = desk().is_running
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button(
            "Stop" if is_running else "Start listening",
            type="secondary" if is_running else "primary",
            key="start",
        ):
            start_or_stop(chosen)
            st.rerun()
        if st.button("Stop reply", disabled=not is_running, key="stop_reply"):
            do(Live.stop_reply)
        st.toggle("Mute", key="muted", on_change=change_mute)


def start_or_stop(chosen: Chosen) -> None:
    """As the button says."""
    if desk().is_running:
        desk().stop()
        return
    try:
        address = ServerAddress.parse(chosen.server, chosen.access_key or None)
    except ClientError as error:
        desk().problem = str(error)
    else:
        desk().start(address, chosen.options)


def change_mute() -> None:
    """The microphone hears silence, or sound again."""
    is_muted = bool(st.session_state["muted"])
    do(lambda live: live.mute(is_muted))


def do(action: Callable[[Live], None]) -> None:
    """In the conversation that goes on, if one does."""
    conversation = desk().conversation
    if conversation is not None:
        conversation.do(action)


def typing() -> None:
    """What is typed instead of spoken."""
    text = st.chat_input("Type instead of speaking", key="typed", disabled=not desk().is_running)
    if text:
        do(lambda live: live.send_text(text))


def show(picture: str, key: str) -> None:
    """A picture in its place, without the flicker of a new one."""
    st.components.v2.component("picture", css=STYLE, js=SHOW)(data=picture, key=key)


def now() -> None:
    """What changes all the time."""
    conversation = desk().conversation
    was_running = desk().is_running
    if desk().problem:
        st.error(desk().problem)
    if conversation is None:
        show(now_html(Live(ServerAddress.parse(DEFAULT_SERVER), LiveOptions())), "now")
        return
    if conversation.ended_because:
        st.error(conversation.ended_because)
    shown, problem, notice = conversation.look(
        lambda live: (now_html(live), live.problem, live.notice)
    )
    if problem:
        st.error(problem)
    if notice:
        st.info(notice)
    show(shown, "now")
    if st.session_state.get("was_running") and not was_running:
        st.session_state["was_running"] = False
        st.rerun()  # the buttons, too
    st.session_state["was_running"] = was_running


def said() -> None:
    """What was said and typed."""
    conversation = desk().conversation
    if conversation is not None:
        show(conversation.look(conversation_html), "said")


if __name__ == "__main__":
    main()
