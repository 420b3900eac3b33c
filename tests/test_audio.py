"""PCM, sample rates, chunks and files of many formats."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from backend.audio import (
    Chunker,
    Resampler,
    Samples,
    float_to_pcm16,
    pcm16_to_float,
    read_audio,
    stream_audio,
)
from backend.config import CHUNK_SAMPLES, SAMPLE_RATE_HZ
from backend.errors import AudioInputError


def tone(rate_hz: int, seconds: float = 1.0, frequency_hz: float = 440.0) -> Samples:
    times = np.arange(round(rate_hz * seconds)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * times)).astype(np.float32)


def encode_with_ffmpeg(path: Path, samples: Samples, rate_hz: int, codec: str) -> None:
    """Write `samples` in a format that libsndfile does not know."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        to_codec = av.AudioResampler(stream.format, stream.layout, stream.rate, stream.frame_size)
        for part in [*to_codec.resample(frame), *to_codec.resample(None), None]:
            container.mux(stream.encode(part))


def assert_similar(found: Samples, expected: Samples, tolerance: float = 0.02) -> None:
    """Equal but for the first and last 50 ms, where filters and codecs swing in and out."""
    edge = SAMPLE_RATE_HZ // 20
    np.testing.assert_allclose(
        found[edge : len(expected) - edge], expected[edge:-edge], atol=tolerance
    )


def test_pcm16_goes_both_ways() -> None:
    pcm = np.array([-32768, -1, 0, 1, 32767], "<i2").tobytes()
    assert float_to_pcm16(pcm16_to_float(pcm)) == pcm
    assert pcm16_to_float(pcm)[0] == -1.0
    assert pcm16_to_float(b"").shape == (0,)


def test_loud_audio_is_clipped_in_pcm16() -> None:
    clipped = np.frombuffer(float_to_pcm16(np.array([-2.0, 2.0], np.float32)), "<i2")
    assert clipped.tolist() == [-32768, 32767]


def test_half_a_sample_is_refused() -> None:
    with pytest.raises(AudioInputError, match="even number of bytes, not 3"):
        pcm16_to_float(b"abc")


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_resampling_a_stream_keeps_the_tone(rate_hz: int) -> None:
    samples = tone(rate_hz)
    resampler = Resampler(rate_hz)
    blocks = [resampler.process(block) for block in np.array_split(samples, 37)]
    found = np.concatenate([*blocks, resampler.flush()])
    assert abs(len(found) - SAMPLE_RATE_HZ) <= 1
    assert_similar(found, tone(SAMPLE_RATE_HZ), tolerance=1e-3)


def test_resampling_filters_what_16_khz_cannot_hold() -> None:
    resampler = Resampler(48_000)
    found = np.concatenate(
        [resampler.process(tone(48_000, frequency_hz=11_000)), resampler.flush()]
    )
    assert np.abs(found[800:-800]).max() < 1e-3


def test_the_same_rate_passes_through() -> None:
    resampler = Resampler(SAMPLE_RATE_HZ)
    samples = tone(SAMPLE_RATE_HZ)
    np.testing.assert_array_equal(resampler.process(samples), samples)
    assert len(resampler.flush()) == 0


@pytest.mark.parametrize("rate_hz", [0, -16_000, 1_000_000])
def test_impossible_rates_are_refused(rate_hz: int) -> None:
    with pytest.raises(AudioInputError, match="sample rate must be between"):
        Resampler(rate_hz)


@pytest.mark.parametrize("block_samples", [1_000, 6_400, 6_401, 50_000])
def test_chunks_from_any_block_size(block_samples: int) -> None:
    samples = tone(SAMPLE_RATE_HZ, seconds=2.5)
    chunker = Chunker()
    chunks: list[Samples] = []
    for start in range(0, len(samples), block_samples):
        chunks += chunker.push(samples[start : start + block_samples])
    last = chunker.flush()
    assert last is not None
    assert all(chunk.shape == (CHUNK_SAMPLES,) for chunk in [*chunks, last])
    joined = np.concatenate([*chunks, last])
    np.testing.assert_array_equal(joined[: len(samples)], samples)
    assert not joined[len(samples) :].any()
    assert chunker.flush() is None


def test_chunks_do_not_share_the_caller_s_memory() -> None:
    samples = tone(SAMPLE_RATE_HZ)
    [first, _] = Chunker().push(samples)
    samples[:] = 9
    assert np.abs(first).max() <= 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    chunker = Chunker()
    chunker.push(np.ones(100, np.float32))
    with pytest.raises(AudioInputError, match="not finite"):
        chunker.push(np.array([0, value], np.float32))
    rest = chunker.flush()
    assert rest is not None
    assert rest.sum() == 100


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_files_of_many_rates_and_formats(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(rate_hz), rate_hz)
    found = read_audio(path)
    assert found.dtype == np.float32
    assert_similar(found, tone(SAMPLE_RATE_HZ), tolerance=0.1)


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left = tone(SAMPLE_RATE_HZ)
    soundfile.write(path, np.stack([left, np.zeros_like(left), -left / 2], axis=1), SAMPLE_RATE_HZ)
    np.testing.assert_allclose(read_audio(path), left / 6, atol=1e-4)


@pytest.mark.parametrize(("suffix", "codec"), [("m4a", "aac"), ("webm", "libopus"), ("mp4", "aac")])
def test_formats_that_only_ffmpeg_reads(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"tone.{suffix}"
    encode_with_ffmpeg(path, tone(48_000), 48_000, codec)
    found = read_audio(path)
    # Codecs shift by their own delay: the tone's strength and pitch say that it is the same.
    middle = found[4_000:12_000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)
    assert np.abs(np.fft.rfft(middle)).argmax() * SAMPLE_RATE_HZ / len(middle) == 440


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32le"])
def test_nothing_is_lost_at_the_end(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "tone.mkv"
    encode_with_ffmpeg(path, tone(44_100), 44_100, codec)
    found = read_audio(path)
    assert abs(len(found) - SAMPLE_RATE_HZ) <= 1
    assert_similar(found, tone(SAMPLE_RATE_HZ), tolerance=1e-3)


def test_the_rate_may_change_within_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "joined.aac"
    parts = []
    for rate_hz in (48_000, 24_000, 16_000):
        encode_with_ffmpeg(path, tone(rate_hz, seconds=2), rate_hz, "aac")
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))
    found = read_audio(path)
    assert len(found) == pytest.approx(6 * SAMPLE_RATE_HZ, rel=0.05)
    for middle_second in (1, 3, 5):
        middle = found[middle_second * SAMPLE_RATE_HZ :][: SAMPLE_RATE_HZ // 2]
        assert np.abs(np.fft.rfft(middle)).argmax() * SAMPLE_RATE_HZ / len(middle) == 440


def test_a_name_may_look_like_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encode_with_ffmpeg(tmp_path / "tone.m4a", tone(48_000), 48_000, "aac")
    (tmp_path / "tone.m4a").rename(tmp_path / "take:2.m4a")
    assert len(read_audio("take:2.m4a")) >= SAMPLE_RATE_HZ


def test_a_long_file_comes_in_small_blocks(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, tone(44_100, seconds=20), 44_100)
    sizes = [len(block) for block in stream_audio(path)]
    assert max(sizes) < 2 * SAMPLE_RATE_HZ
    assert abs(sum(sizes) - 20 * SAMPLE_RATE_HZ) <= 1


def test_unusable_files_are_named(tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("this is not audio")
    nothing = tmp_path / "nothing.ogg"
    nothing.touch()
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.empty(0), SAMPLE_RATE_HZ)
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    broken = tmp_path / "broken.wav"
    soundfile.write(broken, np.full(100, np.nan), SAMPLE_RATE_HZ, subtype="FLOAT")
    slow = tmp_path / "slow.wav"
    soundfile.write(slow, np.ones(500), 500)
    raw = tmp_path / "samples.raw"
    raw.write_text("samples without a header")
    for path, message in [
        (slow, "sample rate must be between 1000 and 768000 Hz, not 500"),
        (raw, "holds no audio"),
        (Path("zero\0byte.wav"), "cannot be read: embedded null byte"),
        (Path("\ud800.wav"), "cannot be read: .* surrogates not allowed"),
        (Path("long" * 100), "cannot be read: File name too long"),
        (tmp_path / "missing.wav", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (text, "damaged, or holds no sound"),
        (nothing, "is empty"),
        (empty, "is empty"),
        (silent, "holds only silence"),
        (broken, "holds values that are not finite"),
    ]:
        with pytest.raises(AudioInputError, match=message) as caught:
            read_audio(path)
        assert str(path) in str(caught.value)


def test_a_video_without_sound_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mute.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for part in [picture, None]:
            container.mux(stream.encode(part))
    with pytest.raises(AudioInputError, match="holds no audio"):
        read_audio(path)


TONE = np.sin(np.arange(3 * SAMPLE_RATE_HZ) * 0.05).astype(np.float32) * 0.3


def test_a_recorder_that_crashed_left_no_length(tmp_path: Path) -> None:
    path = tmp_path / "crashed.wav"
    soundfile.write(path, TONE, SAMPLE_RATE_HZ)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_allclose(read_audio(path), TONE, atol=1e-4)


def test_telephone_sound_in_wav(tmp_path: Path) -> None:
    path = tmp_path / "telephone.wav"
    soundfile.write(path, TONE[:: SAMPLE_RATE_HZ // 8000], 8000, subtype="GSM610")
    assert len(read_audio(path)) == pytest.approx(len(TONE), rel=0.02)


@pytest.mark.parametrize("suffix", ["ogg", "flac", "mp3"])
@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "damaged"])
def test_what_can_be_read_of_a_damaged_file_is_used(
    suffix: str, is_cut: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"broken.{suffix}"
    noise = np.random.default_rng(0).normal(0, 0.1, 10 * SAMPLE_RATE_HZ)
    soundfile.write(path, noise, SAMPLE_RATE_HZ)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if is_cut:
        del content[middle:]
    else:
        content[middle:] = bytes(len(content) - middle)
    path.write_bytes(content)
    seconds = len(read_audio(path)) / SAMPLE_RATE_HZ
    assert 3 < seconds < 11
    if suffix == "flac":
        assert f"its first {seconds:.1f} s are used" in caplog.text


def test_channels_that_cancel_each_other_out(tmp_path: Path) -> None:
    path = tmp_path / "opposite.wav"
    soundfile.write(path, np.stack([TONE, -TONE], axis=1), SAMPLE_RATE_HZ)
    np.testing.assert_allclose(read_audio(path), TONE, atol=1e-4)


@pytest.mark.parametrize(
    ("place", "value"), [(22, 60_000), (24, 1), (24, 0)], ids=["channels", "rate", "no rate"]
)
def test_absurd_headers_in_words(place: int, value: int, tmp_path: Path) -> None:
    path = tmp_path / "absurd.wav"
    soundfile.write(path, TONE, SAMPLE_RATE_HZ)
    content = bytearray(path.read_bytes())
    content[place : place + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(AudioInputError, match=r"absurd.wav.* (damaged, or holds no|sample rate)"):
        read_audio(path)
