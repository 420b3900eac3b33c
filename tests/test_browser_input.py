"""What the model hears, in a real browser: microphone, sounds, files, devices, echo check."""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr

from backend.audio import read_audio
from tests.browsing import SAMPLES, TONE_HZ, TONE_LEVEL
from tests.duplex_page import SAMPLE_RATE_HZ, DuplexPage, OpenDuplex

# Processing would take the tone for noise.
RAW = "settings.set({ echoCancellation: false })"
SNEEZE = {"kind": "sound", "file": "sneeze.ogg", "title": "A sneeze"}
SEVEN = {"kind": "voice", "file": "digit_seven.ogg", "title": "Seven"}
PIECE_SAMPLES = SAMPLE_RATE_HZ // 20
BUTTON = "document.createElement('button')"
# How much the audio thread has captured, by its own clock: on a busy machine, seconds of it are
# still under way to the page and the server.
CAPTURED_SECONDS = """() => {
  const { conversation, sound } = window.live;
  return conversation.secondsAt(sound.clock.pageTime(sound.context.currentTime));
}"""


@pytest.fixture
def page(open_duplex: OpenDuplex) -> DuplexPage:
    """A page that is listening to a tone."""
    page = open_duplex()
    page.page.evaluate(RAW)
    page.start()
    return page


def tone(heard: npt.NDArray[np.int16]) -> float:
    """Amplitude of the microphone's tone in what was heard."""
    time = np.arange(len(heard)) / SAMPLE_RATE_HZ
    return float(2 * abs(np.mean(heard / 32768 * np.exp(-2j * np.pi * TONE_HZ * time))))


def next_seconds(page: DuplexPage, seconds: float) -> npt.NDArray[np.int16]:
    """What the server hears from now on."""
    start = round(page.page.evaluate(CAPTURED_SECONDS) * SAMPLE_RATE_HZ) + 4000
    end = start + round(seconds * SAMPLE_RATE_HZ)
    page.wait_until(lambda: len(page.server.heard) >= end)
    return page.server.heard[start:end]


def similarity(heard: npt.NDArray[Any], sound: npt.NDArray[Any]) -> float:
    """How much of the passage of `heard` that is most like `sound` is that sound, 0 to 1."""
    # Compared at three times the rate, as they may lie a fraction of a sample apart.
    fine_heard = soxr.resample(heard / 32768, SAMPLE_RATE_HZ, 3 * SAMPLE_RATE_HZ)
    fine_sound = soxr.resample(sound, SAMPLE_RATE_HZ, 3 * SAMPLE_RATE_HZ)
    size = 1 << (len(fine_heard) + len(fine_sound)).bit_length()
    spectrum = np.fft.rfft(fine_heard, size) * np.fft.rfft(fine_sound, size).conj()
    products = np.fft.irfft(spectrum, size)[: len(fine_heard) - len(fine_sound) + 1]
    start = int(products.argmax())
    passage = fine_heard[start : start + len(fine_sound)]
    return float(products[start] / np.linalg.norm(passage) / np.linalg.norm(fine_sound))


def far_above_tone(sound: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """What is heard above 2 kHz: not the microphone's tone, even where it jumps."""
    spectrum = np.fft.rfft(sound)
    spectrum[np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE_HZ) < 2_000] = 0
    return np.fft.irfft(spectrum, len(sound))


def loudest_pieces(sound: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The pieces of 50 ms around the loudest sample; the rest of a recording may be silence."""
    peak = int(np.abs(sound).argmax())
    return np.split(sound[peak - PIECE_SAMPLES : peak + 6 * PIECE_SAMPLES], 7)


def test_sound_is_mixed_with_the_microphone(page: DuplexPage) -> None:
    start = len(page.server.heard)
    page.page.evaluate(f"async (sound) => {{ await live.playSound(sound, {BUTTON}); }}", SNEEZE)
    next_seconds(page, 0.4)
    heard = page.server.heard[start:]
    mixed, sneeze = (far_above_tone(s) for s in (heard, read_audio(SAMPLES / "sneeze.ogg")))
    # Piece by piece, for a busy machine leaves out a moment of its sound, and all after it moves.
    pieces = [similarity(mixed, piece) for piece in loudest_pieces(sneeze)]
    assert np.median(pieces) > 0.9, pieces
    assert tone(heard) == pytest.approx(TONE_LEVEL, rel=0.2)


def test_recording_is_heard_instead_of_the_microphone(page: DuplexPage) -> None:
    page.page.evaluate(
        f"async (sample) => {{ await live.playSample(sample, {BUTTON}); window.over = true; }}",
        SEVEN,
    )
    after = next_seconds(page, 0.4)
    assert similarity(page.server.heard, read_audio(SAMPLES / SEVEN["file"])) > 0.98
    assert tone(after) == pytest.approx(TONE_LEVEL, rel=0.05)


def test_second_press_stops_a_recording(page: DuplexPage) -> None:
    page.page.evaluate(f"() => {{ window.button = {BUTTON}; }}")
    play = "(sample) => { window.ended = live.playSample(sample, window.button); }"
    long = {"kind": "voice", "file": "order_large_dark_roast_americano.ogg", "title": "Americano"}
    page.page.evaluate(play, long)
    page.wait("() => live.sound.input.insteadOfMicrophone.recording !== null")
    assert page.page.evaluate("() => window.button.ariaPressed") == "true"
    first = "window.first = window.ended"
    page.page.evaluate(f"(sample) => {{ {first}; live.playSample(sample, window.button); }}", long)
    page.page.evaluate("() => window.first")
    assert page.page.evaluate("() => live.sound.input.playing.size") == 0
    assert page.page.evaluate("() => window.button.ariaPressed") is None
    assert tone(next_seconds(page, 0.4)) == pytest.approx(TONE_LEVEL, rel=0.05)


# What is played to the visitor, as 16 kHz samples: one list for each time.
NOTE_PLAYED = """() => {
  window.heard = [];
  const start = AudioBufferSourceNode.prototype.start;
  AudioBufferSourceNode.prototype.start = function (...values) {
    window.heard.push([...this.buffer.getChannelData(0)]);
    start.apply(this, values);
  };
}"""


def test_chunk_is_heard_after_the_conversation(page: DuplexPage) -> None:
    page.wait("() => live.conversation.seconds > 1.3")
    page.page.evaluate("() => live.startOrStop()")
    page.wait("() => live.state === 'idle'")
    page.page.evaluate(NOTE_PLAYED)
    page.page.evaluate("() => live.hearChunk(1)")
    (heard,) = page.page.evaluate("() => window.heard")
    assert len(heard) == round(1.2 * SAMPLE_RATE_HZ)
    captured = page.server.heard[: len(heard)] / 32768
    assert np.abs(np.array(heard) - captured).max() < 1e-6
    # One after the other in haste: the last is heard, and nothing is left open.
    page.page.evaluate("() => Promise.all([live.hearChunk(0), live.hearChunk(1)])")
    assert [len(samples) for samples in page.page.evaluate("() => window.heard")] == [19_200] * 2
    assert page.page.evaluate("() => live.replayCard") is None


def test_mute_and_push_to_talk(page: DuplexPage) -> None:
    page.wait("() => live.conversation.seconds > 1.3")
    assert tone(next_seconds(page, 0.4)) == pytest.approx(TONE_LEVEL, rel=0.05)
    page.page.evaluate("() => live.toggleMute()")
    assert not next_seconds(page, 0.4).any()
    page.wait("() => live.state === 'muted'")
    page.page.evaluate("() => live.holdToTalk(true)")
    assert tone(next_seconds(page, 0.4)) == pytest.approx(TONE_LEVEL, rel=0.05)
    page.wait("() => live.state === 'listening'")
    page.page.evaluate("() => live.holdToTalk(false)")
    assert not next_seconds(page, 0.4).any()
    page.page.evaluate(f"(sound) => {{ live.playSound(sound, {BUTTON}); }}", SNEEZE)
    page.wait("() => live.state === 'listening'")
    page.page.evaluate("() => live.stopPlaying()")
    page.wait("() => live.state === 'muted'")
    page.page.evaluate("() => live.toggleMute()")
    page.wait("() => live.state === 'listening'")
    page.page.evaluate("() => settings.set({ pushToTalk: true })")
    assert not next_seconds(page, 0.4).any()
    page.wait("() => live.state === 'muted'")
    page.page.evaluate("() => live.holdToTalk(true)")
    assert tone(next_seconds(page, 0.4)) == pytest.approx(TONE_LEVEL, rel=0.05)


def test_a_machine_slower_than_sound_is_sent_only_what_is_meant_for_it(
    open_duplex: OpenDuplex,
) -> None:
    page = open_duplex()
    page.page.evaluate(RAW)
    page.page.evaluate("() => { live.slowness = () => 'slow'; }")
    page.page.evaluate("() => live.startOrStop()")
    page.wait("() => live.phase === 'open' && live.sound.context.currentTime > 0.5")
    assert page.page.evaluate("() => live.conversation.seconds") == 0
    page.page.evaluate("() => live.holdToTalk(true)")
    page.hear_on(0.5)
    page.page.evaluate("() => live.holdToTalk(false)")
    page.wait("() => live.sound.context.currentTime > live.meantUntil + 0.2")
    # What was captured may be on its way yet, from the audio thread as to the server.
    page.wait("() => live.sound.clock !== null && live.state === 'muted'")
    num_heard = round(page.page.evaluate("() => live.conversation.seconds") * SAMPLE_RATE_HZ)
    page.wait_until(lambda: len(page.server.heard) == num_heard)
    heard = page.server.heard
    assert tone(heard[4000:8000]) == pytest.approx(TONE_LEVEL, rel=0.05)
    assert not heard[-SAMPLE_RATE_HZ:].any(), "the pause in which a reply is decided on"
    assert page.shown("showNotice")


def test_devices_and_processing_change_while_it_listens(page: DuplexPage) -> None:
    devices = page.page.evaluate("() => live.listDevices()")
    other = devices["inputs"][-1]
    assert other["label"]
    page.page.evaluate(
        """() => {
          window.wanted = [];
          const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = (wanted) => {
            window.wanted.push(wanted.audio);
            return open(wanted);
          };
          [window.before] = live.sound.input.microphone.stream.getTracks();
        }"""
    )
    page.page.evaluate(
        "(id) => settings.set({ inputDevice: id, noiseSuppression: true })", other["id"]
    )
    page.wait("() => live.sound.input.hasMicrophone && window.before.readyState === 'ended'")
    wanted = page.page.evaluate("() => window.wanted")
    assert wanted == [
        {
            "deviceId": {"exact": other["id"]},
            "echoCancellation": False,
            "noiseSuppression": True,
            "autoGainControl": False,
        }
    ]
    page.page.evaluate("() => settings.set({ noiseSuppression: false })")
    page.wait("() => window.wanted.length === 2 && live.sound.input.hasMicrophone")
    assert tone(next_seconds(page, 0.4)) == pytest.approx(TONE_LEVEL, rel=0.05)
    output = devices["outputs"][-1]["id"]
    page.page.evaluate("(id) => settings.set({ outputDevice: id })", output)
    page.wait(f"() => live.sound.context.sinkId === '{output}'")


def test_lost_microphone_is_told_and_the_conversation_goes_on(page: DuplexPage) -> None:
    page.page.evaluate("() => live.sound.input.microphone.stream.getTracks()[0].onended()")
    assert "disconnected" in page.shown("showProblem")[-1][0]
    assert page.shown("showMicrophone")[-1] == [False, False]
    assert not next_seconds(page, 0.4).any()
    page.wait("() => live.state === 'no_microphone'")
    page.page.evaluate("() => live.toggleMute()")
    page.wait("() => live.state === 'listening'")
    assert page.shown("showProblem")[-1] == [None]
    assert tone(next_seconds(page, 0.4)) == pytest.approx(TONE_LEVEL, rel=0.05)


# As when a call has the sound: the browser gives it back when it is over and the page is in view.
INTERRUPT = """async () => {
  const { context } = live.sound;
  const resume = context.resume.bind(context);
  context.resume = () => Promise.reject(new DOMException('', 'InvalidStateError'));
  window.endCall = () => { context.resume = resume; };
  await context.suspend();
}"""


def test_interrupted_sound_is_told_and_goes_on_with_a_gap(page: DuplexPage) -> None:
    page.hear_on(0.5)
    page.page.evaluate(INTERRUPT)
    page.wait("() => live.state === 'interrupted'")
    assert "touch the page" in page.shown("showNotice")[-1][0]
    start = page.page.evaluate("() => performance.now()")
    page.page.wait_for_function("(start) => performance.now() > start + 2000", arg=start)
    page.page.evaluate("() => { window.endCall(); window.dispatchEvent(new Event('focus')); }")
    page.wait("() => live.state === 'listening'")
    assert page.shown("showNotice")[-1] == [None]
    page.wait("() => live.conversation.gaps.length === 1")
    gap = page.page.evaluate("() => live.conversation.gaps.last")
    assert gap["length"] > 1.9
    # What is captured from then on was captured just now: latencies are right.
    before, after = page.page.evaluate(
        """({ seconds }) => [-0.01, 0.01].map((by) => live.conversation.timeOf(seconds + by))""",
        gap,
    )
    assert after - before == pytest.approx(20 + 1000 * gap["length"], abs=1)


def test_clock_follows_a_machine_that_slept(open_duplex: OpenDuplex) -> None:
    offsets = open_duplex().page.evaluate(
        """async () => {
          const { AudioClock } = await import('/live/audio-clock.js');
          const clock = new AudioClock({});
          const now = performance.now();
          const wasLate = (milliseconds, times) => {
            for (let i = 0; i < times; i += 1) {
              clock.observe((performance.now() - milliseconds) / 1000);
            }
            return clock.offset;
          };
          return [wasLate(5, 1), wasLate(3000, 19), wasLate(5, 1), wasLate(3000, 21)];
        }"""
    )
    awake, busy, caught_up, slept = offsets
    assert awake == pytest.approx(5, abs=1)
    assert busy == pytest.approx(5, abs=15)  # it forgets a little with each message
    assert caught_up == pytest.approx(5, abs=1)
    assert slept == pytest.approx(3000, abs=1)


def test_microphone_that_the_system_silences_is_told(page: DuplexPage) -> None:
    page.page.evaluate(
        """() => {
          const [track] = live.sound.input.microphone.stream.getTracks();
          window.silence = (muted) =>
            Object.defineProperty(track, 'muted', { value: muted, configurable: true });
          window.silence(true);
        }"""
    )
    page.wait("() => live.state === 'muted'")
    page.wait("() => window.shown.showNotice.at(-1)[0]?.includes('switched off')")
    page.page.evaluate("() => window.silence(false)")
    page.wait("() => live.state === 'listening' && window.shown.showNotice.at(-1)[0] === null")


def test_loudspeaker_that_is_gone_is_not_taken_for_a_microphone(open_duplex: OpenDuplex) -> None:
    page = open_duplex()
    page.page.evaluate("() => settings.set({ outputDevice: 'gone' })")
    page.start()
    (problem,) = page.shown("showProblem")[-1]
    assert problem.startswith("The loudspeaker chosen in the settings is not connected")
    error = page.page.evaluate(
        "() => live.runEchoCheck(() => {}).catch((error) => error.constructor.name)"
    )
    assert error == "LoudspeakerError"
    page.page.evaluate("() => settings.set({ outputDevice: '' })")
    page.wait("() => window.shown.showProblem.at(-1)[0] === null")
    assert page.page.evaluate("() => live.phase") == "open"


# A file as a visitor drops it, from base64.
PLAY_FILE = """([name, encoded]) => {
  const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  live.playFile(new File([bytes], name)).then(() => { window.isOver = true; });
}"""


def play_file(page: DuplexPage, name: str, content: bytes) -> None:
    page.page.evaluate(PLAY_FILE, [name, base64.b64encode(content).decode()])


def noise_file(
    seconds: float, rate_hz: int, channels: int
) -> tuple[bytes, npt.NDArray[np.float32]]:
    """A WAV file of band-limited noise, and what it is at 16 kHz."""
    size = round(seconds * SAMPLE_RATE_HZ)
    slow = np.random.default_rng(0).normal(0, 0.1, size).astype(np.float32)

    samples = soxr.resample(slow, SAMPLE_RATE_HZ, rate_hz)
    content = io.BytesIO()
    soundfile.write(content, np.stack([samples] * channels, 1), rate_hz, format="WAV")
    return content.getvalue(), slow


def test_file_plays_at_normal_speed_through_the_same_path(page: DuplexPage) -> None:
    content, samples = noise_file(2.0, 44_100, channels=2)
    start = len(page.server.heard)
    play_file(page, "noise.wav", content)
    page.wait("() => window.isOver")
    after = next_seconds(page, 0.4)
    # Piece by piece, for a busy machine leaves out a moment of its sound, and all after it moves.
    pieces = np.array_split(samples, 10)
    alike = [similarity(page.server.heard[start:], piece) for piece in pieces]
    assert np.median(alike) > 0.95, alike
    fractions = [file["fraction"] for (file,) in page.shown("showFile") if file is not None]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] > 0.8
    assert page.shown("showFile")[-1] == [None]
    assert tone(after) == pytest.approx(TONE_LEVEL, rel=0.05)


def test_file_can_be_stopped(page: DuplexPage) -> None:
    content, _ = noise_file(30.0, SAMPLE_RATE_HZ, channels=1)
    play_file(page, "long.wav", content)
    page.wait("() => window.shown.showFile?.some(([file]) => file?.fraction > 0)")
    page.page.evaluate("() => live.stopPlaying()")
    page.wait("() => window.isOver")
    assert tone(next_seconds(page, 0.4)) == pytest.approx(TONE_LEVEL, rel=0.05)


def test_file_that_is_no_audio_in_words(page: DuplexPage) -> None:
    play_file(page, "letter.txt", b"no sound in here" * 100)
    page.wait("() => window.isOver")
    assert "cannot play that recording" in page.shown("showProblem")[-1][0]
    assert page.shown("showFile")[-1] == [None]
    assert tone(next_seconds(page, 0.4)) == pytest.approx(TONE_LEVEL, rel=0.05)


def test_chunk_of_the_strip_is_heard_again_by_the_visitor_only(page: DuplexPage) -> None:
    page.wait_until(lambda: page.server.num_heard_chunks >= 4)
    page.page.evaluate(
        """() => {
          const { input } = live.sound;
          const bufferOf = input.bufferOf.bind(input);
          input.bufferOf = (samples) => {
            window.again = [...samples];
            return bufferOf(samples);
          };
          live.hearChunk(2).then(() => { window.isOver = true; });
        }"""
    )
    assert not next_seconds(page, 0.4).any()
    again = np.array(page.page.evaluate("() => window.again"))
    expected = page.server.heard[1 * 6_400 : 4 * 6_400] / 32768
    assert again.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    page.wait("() => window.isOver")
    assert tone(next_seconds(page, 0.4)) == pytest.approx(TONE_LEVEL, rel=0.05)


# The signal comes back 120 ms later through a small room, at a level; noise is in the microphone.
# Gaps in what is played make all later sound come later: each is a time and a length in samples.
ANALYSE = """async ([echoDb, noiseDb, gaps]) => {
  const { analyse, checkSignal } = await import('/live/echo-path.js');
  const signal = checkSignal();
  let played = [...signal];
  for (const [start, length] of gaps) played.splice(start, 0, ...new Array(length).fill(0));
  const captured = new Float32Array(signal.length);
  const room = [[0, 0.9], [37, -0.3], [150, 0.25], [401, -0.15]];
  const energy = room.reduce((sum, [, gain]) => sum + gain * gain, 0);
  const level = 10 ** ((echoDb + 20) / 20) / Math.sqrt(energy);
  const noise = 10 ** (noiseDb / 20) * Math.sqrt(3);
  for (let i = 0; i < captured.length; i += 1) {
    captured[i] = noise * (2 * Math.random() - 1);
    for (const [delay, gain] of room) captured[i] += level * gain * (played[i - 1920 - delay] ?? 0);
  }
  return analyse(captured);
}"""


@pytest.mark.parametrize(
    ("echo_db", "noise_db", "verdict"),
    [
        (-25, -60, "headphones"),
        (-48, -70, "lower"),
        (-65, -60, "fine"),
        (-45, -40, "fine"),  # hidden in the room's noise
        (-300, -50, "fine"),
        (-300, -300, "no_microphone"),
    ],
)
def test_echo_check_measures_what_comes_back(
    open_duplex: OpenDuplex, echo_db: float, noise_db: float, verdict: str
) -> None:
    result: dict[str, Any] = open_duplex().page.evaluate(ANALYSE, [echo_db, noise_db, []])
    assert result["verdict"] == verdict
    if verdict in ("headphones", "lower"):
        assert result["echoDb"] == pytest.approx(echo_db, abs=1)
        assert result["noiseDb"] == pytest.approx(noise_db, abs=1)


def test_echo_check_on_a_machine_whose_sound_has_gaps(open_duplex: OpenDuplex) -> None:
    """Two within bursts and one between them; one burst stays whole."""
    gaps = [[25_600, 480], [35_000, 1_000], [56_000, 700]]
    result = open_duplex().page.evaluate(ANALYSE, [-48, -70, gaps])
    assert result["verdict"] == "lower"
    assert result["echoDb"] == pytest.approx(-48, abs=1)


# The capture worklet on an audio thread of ours: its first call comes with an old time, and later
# one call is left out. Calls `[frame of the context]`; gives the times of the frames it captured.
CAPTURE = """async (calls) => {
  const times = [];
  let Capture;
  globalThis.sampleRate = 48000;
  globalThis.AudioWorkletProcessor = class {
    port = { postMessage: ({ time }) => times.push(time) };
  };
  globalThis.registerProcessor = (_, made) => { Capture = made; };
  await import('/live/capture-worklet.js');
  const capture = new Capture();
  for (const frame of calls) {
    globalThis.currentFrame = frame;
    globalThis.currentTime = frame / 48000;
    capture.process([[new Float32Array(128)]]);
  }
  return times;
}"""


def test_captured_sound_keeps_the_time_of_the_audio_thread(open_duplex: OpenDuplex) -> None:
    calls = [0, *range(12_800, 30_000, 128), *range(30_208, 48_000, 128)]
    times = open_duplex().page.evaluate(CAPTURE, calls)
    late = 0.004  # the resampler
    before = [(12_800 + 2_400 * (number + 1)) / 48_000 for number in range(7)]
    assert times[:7] == pytest.approx(before, abs=late)
    assert times[7:] == pytest.approx([time + 0.35 + 0.0043 for time in before], abs=late)


# What the page plays comes back through its microphone, at a level.
LOOP = """(gain) => {
  const connect = AudioNode.prototype.connect;
  let loop = null;
  AudioNode.prototype.connect = function (target, ...others) {
    if (target instanceof AudioDestinationNode) {
      loop ??= new MediaStreamAudioDestinationNode(this.context);
      if (loop.context === this.context) {
        const quieter = new GainNode(this.context, { gain });
        connect.call(this, quieter);
        connect.call(quieter, loop);
      }
    }
    return connect.call(this, target, ...others);
  };
  navigator.mediaDevices.getUserMedia = async () => loop.stream;
}"""


@pytest.mark.parametrize(("gain", "verdict"), [(0.5, "headphones"), (0.04, "lower")])
def test_echo_check_from_loudspeaker_to_microphone(
    open_duplex: OpenDuplex, gain: float, verdict: str
) -> None:
    page = open_duplex()
    page.page.evaluate(LOOP, gain)
    result = page.page.evaluate(
        "() => live.runEchoCheck((fraction) => { window.fraction = fraction; })"
    )
    assert result["verdict"] == verdict
    assert result["echoDb"] == pytest.approx(-20 + 20 * np.log10(gain), abs=3)
    assert page.page.evaluate("() => window.fraction") == 1


def test_echo_check_of_a_quiet_loudspeaker(page: DuplexPage) -> None:
    """The conversation goes on, and hears nothing of it."""
    page.page.evaluate("() => { window.check = live.runEchoCheck(() => {}); }")
    assert not next_seconds(page, 0.4).any()
    result = page.page.evaluate("() => window.check")
    assert result["verdict"] == "fine"
    assert result["noiseDb"] == pytest.approx(20 * np.log10(TONE_LEVEL) - 3, abs=3)
    assert tone(next_seconds(page, 0.4)) == pytest.approx(TONE_LEVEL, rel=0.05)


def test_echo_check_without_a_microphone(open_duplex: OpenDuplex) -> None:
    page = open_duplex()
    page.page.evaluate(
        "() => { navigator.mediaDevices.getUserMedia = () =>"
        " Promise.reject(new DOMException('', 'NotFoundError')); }"
    )
    result = page.page.evaluate("() => live.runEchoCheck(() => {})")
    assert result["verdict"] == "no_microphone"
