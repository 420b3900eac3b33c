"""Hearing and speaking at the same time, in a real browser against a scripted server."""

import numpy as np
import numpy.typing as npt
import pytest

from tests.duplex_page import REPLY_RATE_HZ, DuplexPage, OpenDuplex


@pytest.fixture
def page(open_duplex: OpenDuplex) -> DuplexPage:
    """A page whose conversation is open."""
    page = open_duplex()
    page.start()
    return page


def noise(seconds: float, seed: int = 0) -> npt.NDArray[np.int16]:
    """A sound that nothing repeats in."""
    size = round(seconds * REPLY_RATE_HZ)
    return np.random.default_rng(seed).integers(-20_000, 20_000, size, dtype=np.int16)


def without_silence(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """From the first sample that is heard to the last."""
    (places,) = np.nonzero(samples)
    return samples[places[0] : places[-1] + 1]


def test_reply_is_played_to_the_sample(page: DuplexPage) -> None:
    pcm = noise(1.2)
    page.server.speak()
    page.server.say("Yes, of course.")
    for block in np.array_split(pcm, 7):
        page.server.sound(block)
    page.server.done()
    page.wait("() => live.conversation.turns.last?.endSeconds != null")
    played = without_silence(page.played())
    expected = page.expected(pcm)
    assert len(expected) == round(len(pcm) * page.rate_hz / REPLY_RATE_HZ)
    assert np.abs(played - without_silence(expected)).max() < 1e-6
    acks = page.server.of_type("playback.ack")
    assert acks[0]["played_ms"] == 0
    assert acks[-1]["played_ms"] == 1200
    assert 4 <= len(acks) <= 8
    heard = [ack["audio_seconds"] for ack in acks]
    # One clock measures both: as much was captured as was played.
    assert heard[-1] - heard[0] == pytest.approx(1.2, abs=0.03)
    turn = page.turn()
    assert turn["timing"]["firstSoundMs"] > turn["timing"]["firstTextMs"] >= 0
    assert (turn["status"], turn["heardText"], turn["text"]) == (
        "completed",
        None,
        "Yes, of course.",
    )


# As soon as a tenth of the reply is heard, somebody has been speaking for 150 ms. The page waits
# for that by itself: the reply would be over before a busy machine had asked it and told it. From
# then on it waits for the server as long as a test takes.
HOLD = """async () => {
  const heard = ({ playedMs, totalMs }) => totalMs > 0 && playedMs > 0.1 * totalMs;
  while (![...live.session.speech.replies.values()].some(heard)) {
    await new Promise((onTime) => { setTimeout(onTime, 5); });
  }
  const seconds = live.conversation.seconds;
  const metadata = { response_id: 'resp', onset_seconds: seconds - 0.15, seconds };
  live.receive(live.session, { type: 'overlap.decision', action: 'listen', metadata });
  live.session.speech.heldUntil = null;
  return metadata.onset_seconds;
}"""


def held_reply(page: DuplexPage, pcm: npt.NDArray[np.int16]) -> float:
    """Play a reply until somebody speaks over it; returns the onset of the voice."""
    page.server.speak()
    page.server.say("One two three. Four five six.")
    half = len(pcm) // 2
    page.server.sound(pcm[:half], sentence="One two three.", audio_start_ms=0)
    middle_ms = half * 1000 / REPLY_RATE_HZ
    page.server.sound(pcm[half:], sentence="Four five six.", audio_start_ms=middle_ms)
    page.server.send("response.output_audio.done", response_id="resp")
    onset = float(page.page.evaluate(HOLD))
    page.wait(
        "() => [...live.session.speech.replies.values()].every((reply) => reply.silentAt !== null)"
    )
    page.wait_until(lambda: page.server.of_type("playback.ack")[-1]["played_ms"] > 0)
    page.play_on(0.3)
    return onset


def test_cough_holds_a_reply_and_nothing_of_it_is_lost(page: DuplexPage) -> None:
    pcm = noise(2.0)
    held_reply(page, pcm)
    before = len(page.played())
    silence = page.played()[-round(0.2 * page.rate_hz) :]
    assert not silence.any()
    said = page.turn()["saidText"]
    assert page.turn()["text"].startswith(said)
    assert 0 < len(said) < len(page.turn()["text"])
    page.server.overlap("drop", response_id="resp")
    page.wait("() => live.conversation.turns.last?.endSeconds != null")
    played, expected = page.played(), page.expected(pcm)
    (places,) = np.nonzero(played)
    assert places[-1] > before
    # But for the fades, what is heard without the gap is the reply.
    pause = int(np.diff(places).argmax())
    assert np.diff(places)[pause] > 0.2 * page.rate_hz
    start, end, again = int(places[0]), int(places[pause]) + 1, int(places[pause + 1])
    fade = round(0.006 * page.rate_hz)
    first = played[start:end]
    second = played[again : places[-1] + 1]
    assert len(first) + len(second) == pytest.approx(len(expected), abs=4)
    assert np.abs(first - expected[: len(first)])[:-fade].max() < 1e-6
    rest = expected[-len(second) :]
    assert np.abs(second - rest)[fade:].max() < 1e-6
    turn = page.turn()
    assert (turn["wasHeld"], turn["heardText"], turn["silentInMs"]) == (True, None, None)
    assert turn["saidText"] is None


def test_voice_stops_a_reply_for_good(page: DuplexPage) -> None:
    onset = held_reply(page, noise(4.0))
    page.server.overlap("barge_in", response_id="resp", onset_seconds=onset, seconds=onset + 0.5)
    page.server.done(status="cancelled", reason="turn_detected")
    page.server.sound(noise(1.0, seed=1))  # late
    page.wait("() => live.conversation.turns.last.heardText !== null")
    length = len(without_silence(page.played()))
    page.play_on(0.4)
    assert len(without_silence(page.played())) == length
    turn = page.turn()
    assert (turn["status"], turn["reason"]) == ("cancelled", "turn_detected")
    assert turn["cutAfterMs"] == pytest.approx(length * 1000 / page.rate_hz, abs=1)
    # A voice of 150 ms and a fade of 5 ms; and the machine of the tests is busy.
    assert 150 < turn["silentInMs"] < 1000
    assert turn["text"].startswith(turn["heardText"])
    assert len(turn["heardText"]) < len("One two three.")
    ack = page.server.of_type("playback.ack")[-1]
    assert ack["played_ms"] == pytest.approx(turn["cutAfterMs"], abs=1)
    # The next reply is heard from its first sample.
    pcm = noise(0.5, seed=2)
    page.server.speak("next")
    page.server.sound(pcm, "next")
    page.server.done("next")
    page.wait("() => live.conversation.turns.last.endSeconds !== null")
    expected = page.expected(pcm)
    assert (
        np.abs(
            page.played()[: np.nonzero(page.played())[0][-1] + 1][-len(expected) :] - expected
        ).max()
        < 1e-6
    )


def test_visitor_stops_a_reply(page: DuplexPage) -> None:
    page.server.speak()
    page.server.say("Yes.")
    page.server.sound(noise(3.0), sentence="Yes.", audio_start_ms=0)
    page.wait("() => [...live.session.speech.replies.values()].some((one) => one.playedMs > 0)")
    # The server may say that it obeys before the last sound has faded.
    page.page.evaluate(
        """() => {
          live.stopReply();
          const metadata = { onset_seconds: live.conversation.seconds };
          live.receive(live.session, { type: 'overlap.decision', action: 'barge_in', metadata });
        }"""
    )
    page.wait("() => live.conversation.turns.last.heardText !== null")
    page.wait_until(lambda: len(page.server.of_type("barge_in")) == 1)
    assert page.turn()["reason"] == "client_cancelled"
    page.server.done(status="cancelled", reason="client_cancelled")
    page.wait("() => live.state === 'listening'")
    assert page.turn()["silentInMs"] is None


def test_reply_that_is_synthesized_slowly_goes_on_where_it_stopped(page: DuplexPage) -> None:
    pcm = noise(0.6)
    page.server.speak()
    page.server.sound(pcm[: len(pcm) // 2])
    page.wait("() => live.sound.playback.numUnderruns === 1")
    page.server.sound(pcm[len(pcm) // 2 :])
    page.server.done()
    page.wait("() => live.conversation.turns.last.endSeconds !== null")
    heard = page.played()
    heard = heard[heard != 0]
    expected = page.expected(pcm)
    assert len(heard) == pytest.approx(len(expected), abs=4)
    assert heard[-1000:].tolist() == pytest.approx(expected[-1000:].tolist(), abs=1e-6)


def test_lost_connection_is_taken_up_where_it_broke(page: DuplexPage) -> None:
    """Every sample that the page captures arrives once, in order; so does every event."""
    server = page.server
    page.page.evaluate(
        """() => {
          const { input } = live.sound;
          const noise = Float32Array.from({ length: 16000 * 12 }, () => Math.random() - 0.5);
          const node = input.bufferPlayer(input.bufferOf(noise));
          input.play(node, { isHeard: true });
        }"""
    )
    page.hear_on(1.0)
    server.max_connections = 1  # the first two attempts to come back fail
    server.cut()
    page.wait("() => live.state === 'reconnecting'")
    server.speak()  # the conversation goes on without its client
    server.say("Still here.")
    server.done()
    page.hear_on(1.7)  # more than the model may be behind
    page.wait_until(lambda: len(server.connections) > 2)
    assert page.shown("showBehind")[-1] == [0]
    server.max_connections = 100
    page.wait("() => live.state !== 'reconnecting'")
    page.wait("() => live.conversation.turns.last?.status === 'completed'")
    page.hear_on(1.0)
    assert page.turn()["text"] == "Still here."
    captured = np.array(
        page.page.evaluate(
            "() => [...live.conversation.soundBetween(0, Infinity)].flatMap((pcm) => [...pcm])"
        ),
        np.int16,
    )
    size = min(len(captured), len(server.heard))
    assert size > 2.5 * 16_000
    assert np.array_equal(captured[:size], server.heard[:size])
    assert abs(len(captured) - len(server.heard)) < 16_000
    decided = page.page.evaluate("() => [...live.conversation.decisions.from(0)]")
    assert [decision["chunk"] for decision in decided] == list(range(len(decided)))
    (resumed,) = server.of_type("session.resume")[-1:]
    assert resumed["last_received_server_event_seq"] > 1


def test_conversation_that_is_gone_is_told(page: DuplexPage) -> None:
    page.server.max_connections = 1
    page.server.cut()
    page.wait("() => live.state === 'reconnecting'")
    page.page.evaluate("() => { live.socket.lostAt -= 60000; }")
    page.wait("() => live.state === 'idle'")
    assert "cannot be reached" in page.shown("showProblem")[-1][0]


def test_server_that_is_restarted_is_waited_for_and_a_new_conversation_begins(
    page: DuplexPage,
) -> None:
    server = page.server
    page.page.evaluate("() => live.toggleMute()")
    server.speak()
    server.say("It goes on.")
    server.sound(np.ones(REPLY_RATE_HZ, np.int16))
    page.wait("() => live.conversation.turns.last.timing.firstSoundMs !== null")
    page.page.evaluate("() => { window.before = live.conversation; }")
    server.is_loading = True
    server.socket.close(code=1012)
    page.wait_until(lambda: len(server.connections) >= 4)
    assert page.page.evaluate("() => live.state") == "connecting"
    assert "being restarted" in page.shown("showNotice")[-1][0]
    server.is_loading = False
    page.wait("() => live.state === 'muted'")  # as it was
    assert "This is a new one" in page.shown("showNotice")[-1][0]
    assert all(problem == [None] for problem in page.shown("showProblem"))
    assert page.shown("showLatencies")[-1] == [None]
    page.wait_until(lambda: server.num_heard_chunks > 1)
    assert page.page.evaluate("() => live.conversation !== before && !live.session.speech.isActive")


@pytest.mark.parametrize("is_recorded", [False, True])
def test_conversation_that_the_server_forgot_begins_anew_but_not_unrecorded(
    page: DuplexPage, is_recorded: bool
) -> None:
    if is_recorded:
        page.server.send("recording.started", recording_id="mine")
        page.wait("() => live.session.isRecording")
    page.server.remembers = False
    page.server.cut()
    page.wait_until(lambda: len(page.server.connections) >= 2)
    page.wait(f"() => live.state === '{'idle' if is_recorded else 'listening'}'")
    problems = [problem for (problem,) in page.shown("showProblem") if problem is not None]
    if is_recorded:
        (problem,) = problems
        assert "the conversation is over" in problem
        assert page.shown("showKept")[-1][0]["id"] == "mine"
    else:
        assert problems == []
        assert "This is a new one" in page.shown("showNotice")[-1][0]


def test_page_that_is_left_asks_first_only_where_it_records(page: DuplexPage) -> None:
    leave = """() => {
      const leaving = new Event('beforeunload', { cancelable: true });
      window.dispatchEvent(leaving);
      return leaving.defaultPrevented;
    }"""
    assert not page.page.evaluate(leave)
    page.server.send("recording.started", recording_id="mine")
    page.wait("() => live.session.isRecording")
    assert page.page.evaluate(leave)
    page.server.send("recording.stopped", recording_id="mine", seconds=1, reason="client")
    page.wait("() => !live.session.isRecording")
    assert not page.page.evaluate(leave)


def test_queue(open_duplex: OpenDuplex) -> None:
    page = open_duplex()
    page.server.queue_position = 2
    page.page.evaluate("() => { live.startOrStop(); }")
    page.wait("() => live.state === 'queued'")
    assert page.shown("showQueue")[-1] == [{"position": 2, "waitSeconds": 20}]
    page.server.send("session.queue_update", position=1, estimated_wait_s=5)
    page.wait("() => window.shown.showQueue.at(-1)[0].position === 1")
    page.server.send("session.queue_done")
    page.server.create()
    page.wait("() => live.state === 'listening'")
    assert page.shown("showQueue")[-1] == [None]


def test_queue_can_be_left(open_duplex: OpenDuplex) -> None:
    page = open_duplex()
    page.server.queue_position = 2
    page.page.evaluate("() => { live.startOrStop(); }")
    page.wait("() => live.state === 'queued'")
    page.page.evaluate("() => live.leaveQueue()")
    page.wait("() => live.state === 'idle'")
    assert page.shown("showProblem")[-1] == [None]


def test_settings_reach_the_server(page: DuplexPage) -> None:
    (opening,) = page.server.of_type("session.update")
    assert opening["session"]["output_modalities"] == ["text"]
    assert opening["session"]["audio"]["input"]["transcription"] is not None
    assert opening["session"]["temperature"] == 0.5  # the server's own
    page.page.evaluate(
        "() => settings.set({ speakReplies: true, decisionBias: 2, voice: 'espeak:en-us',"
        " instructions: 'Be brief.' })"
    )
    page.wait_until(lambda: len(page.server.of_type("session.update")) == 2)
    session = page.server.of_type("session.update")[-1]["session"]
    assert session["output_modalities"] == ["audio"]
    assert session["decision_bias"] == 2
    assert session["audio"]["output"]["voice"] == "espeak:en-us"
    assert session["instructions"] == "Be brief."
    assert session["seed"] == opening["session"]["seed"]


def test_idle_conversation_is_kept_by_a_touch(page: DuplexPage) -> None:
    page.server.send("session.go_away", reason="idle", time_left_ms=60_000)
    page.wait("() => window.shown.showNotice?.at(-1)[0]?.includes('about to end')")
    page.wait("() => window.shown.showTimeLeft.some(([seconds]) => seconds === 60)")
    page.wait("() => window.shown.showTimeLeft.at(-1)[0] < 60")
    page.page.mouse.click(10, 10)
    page.wait_until(lambda: any(e.get("active") for e in page.server.of_type("session.heartbeat")))
    page.wait("() => window.shown.showNotice.at(-1)[0] === null")
    page.wait("() => window.shown.showTimeLeft.at(-1)[0] === null")


def test_text_is_part_of_the_conversation(page: DuplexPage) -> None:
    page.page.evaluate("() => live.sendText('Good morning')")
    page.wait_until(lambda: len(page.server.of_type("response.create")) == 1)
    (created,) = page.server.of_type("conversation.item.create")
    assert created["item"]["content"] == [{"type": "input_text", "text": "Good morning"}]
    page.server.speak()
    page.wait("() => live.conversation.turns.last !== undefined")
    assert page.turn()["isUnprompted"] is False
    page.server.done()
    page.server.speak("other")
    page.wait("() => live.conversation.turns.last.responseId === 'other'")
    assert page.turn()["isUnprompted"] is True


@pytest.mark.parametrize("has_arrived", [False, True])
def test_text_typed_as_the_connection_breaks_arrives_once(
    page: DuplexPage, has_arrived: bool
) -> None:
    server = page.server
    page.page.evaluate("() => live.sendText('Good morning')")
    page.wait_until(lambda: len(server.of_type("conversation.item.create")) == 1)
    server.cut()
    page.wait("() => live.state === 'reconnecting'")
    (created,) = server.of_type("conversation.item.create")
    if has_arrived:
        server.send("conversation.item.added", item=created["item"])
    page.page.evaluate("() => live.sendText('Still there?')")
    page.wait("() => live.session.typed.waiting.size > 0 && !live.session.typed.isAsking")
    page.wait("() => live.state === 'listening'")
    page.hear_on(0.5)
    items = [event["item"] for event in server.of_type("conversation.item.create")]
    texts = [item["content"][0]["text"] for item in items]
    again = [] if has_arrived else ["Good morning"]
    assert texts == ["Good morning", *again, "Still there?"]
    assert len({item["id"] for item in items}) == 2  # the server refuses what it has already


def test_answer_is_asked_for_again_where_the_request_was_lost(page: DuplexPage) -> None:
    server = page.server
    page.page.evaluate("() => live.sendText('Good morning')")
    page.wait_until(lambda: len(server.of_type("response.create")) == 1)
    (created,) = server.of_type("conversation.item.create")
    server.send("conversation.item.added", item=created["item"])
    page.wait("() => live.session.typed.waiting.size === 0")
    server.cut()
    page.wait_until(lambda: len(server.of_type("response.create")) == 2)
    server.cut()
    page.wait("() => live.state === 'reconnecting'")
    server.send("response.created", response={"id": "resp"})  # as the page is told on its return
    page.wait_until(lambda: len(server.connections) == 3)
    page.wait("() => live.state === 'listening' && !live.session.typed.isAsking")
    page.hear_on(0.3)
    # By its id the server knows the second for the first, which may have arrived after all.
    first, second = server.of_type("response.create")
    assert first == second
    assert len(server.of_type("conversation.item.create")) == 1


def test_texts_typed_one_after_the_other_are_answered_one_after_the_other(
    page: DuplexPage,
) -> None:
    server = page.server
    page.page.evaluate("() => { live.sendText('Seven?'); live.sendText('And eight?'); }")
    page.wait_until(lambda: len(server.of_type("conversation.item.create")) == 2)
    page.hear_on(0.3)
    assert len(server.of_type("response.create")) == 1
    server.send("response.created", response={"id": "resp"})
    page.wait_until(lambda: len(server.of_type("response.create")) == 2)
    items, requests = (
        [event["event_id"] for event in server.of_type(kind)]
        for kind in ("conversation.item.create", "response.create")
    )
    assert requests == [f"request_{item}" for item in items]


def test_text_typed_in_the_queue_is_sent_when_it_is_over(open_duplex: OpenDuplex) -> None:
    page = open_duplex()
    page.server.queue_position = 1
    page.page.evaluate("() => { live.startOrStop(); live.sendText('Good morning'); }")
    page.wait("() => live.state === 'queued'")
    assert page.server.of_type("conversation.item.create") == []
    page.server.create()
    page.wait_until(lambda: len(page.server.of_type("conversation.item.create")) == 1)
    page.wait_until(lambda: len(page.server.of_type("response.create")) == 1)


@pytest.mark.parametrize(
    ("key", "offered"),
    [
        ("secret", "openai-insecure-api-key.secret"),
        ("f/0k+q3Zx?>==", "base64url.bearer.authorization.Zi8waytxM1p4Pz49PQ"),
    ],
)
def test_access_key_is_offered_as_a_subprotocol(
    open_duplex: OpenDuplex, key: str, offered: str
) -> None:
    page = open_duplex()
    page.page.evaluate(
        """(accessKey) => {
          window.protocols = [];
          window.WebSocket = new Proxy(window.WebSocket, {
            construct(target, [url, offered]) {
              window.protocols.push(offered);
              return new target(url, offered);
            },
          });
          settings.set({ accessKey });
          live.startOrStop();
        }""",
        key,
    )
    page.wait("() => live.phase === 'open'")
    assert page.page.evaluate("() => window.protocols") == [["realtime", offered]]
