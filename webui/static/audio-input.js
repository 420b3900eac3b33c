// What the model hears: microphone, sounds and recordings, through one graph and one worklet.

import { SAMPLE_RATE } from './audio-format.js';

const GATE_SECONDS = 0.005; // a gate that shuts at once would click

function microphoneWanted({ inputDevice, echoCancellation, noiseSuppression, autoGainControl }) {
  return {
    audio: {
      ...(inputDevice && { deviceId: { exact: inputDevice } }),
      echoCancellation,
      noiseSuppression,
      autoGainControl,
    },
  };
}

/** The microphone cannot be opened; `name` is the browser's for why. */
export class MicrophoneError extends Error {
  constructor({ name, message }) {
    super(message);
    this.name = name;
  }
}

/** A recording that the browser cannot play. */
export class RecordingError extends Error {}

async function streamOf(wanted) {
  try {
    return await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) {
    throw new MicrophoneError(error);
  }
}

/** A tab that was chosen, and gives no sound. */
export class SilentTabError extends Error {}

/** A browser asks for the picture along with the sound: it is let go at once. */
async function tabSound() {
  const stream = await navigator.mediaDevices.getDisplayMedia({
    audio: { suppressLocalAudioPlayback: false },
    video: true,
    systemAudio: 'exclude',
  });
  stream.getVideoTracks().forEach((track) => track.stop());
  if (stream.getAudioTracks().length === 0) throw new SilentTabError();
  return new MediaStream(stream.getAudioTracks());
}

export class AudioInput {
  /**
   * `onFrame` gets {pcm, level, peak, time} every 50 ms; `onMicrophoneLost` is called when the
   * microphone goes by itself.
   */
  static async open(context, { onFrame, onMicrophoneLost }) {
    await context.audioWorklet.addModule(new URL('./capture-worklet.js', import.meta.url));
    return new AudioInput(context, onFrame, onMicrophoneLost);
  }

  constructor(context, onFrame, onMicrophoneLost) {
    this.context = context;
    this.onMicrophoneLost = onMicrophoneLost;
    this.capture = new AudioWorkletNode(context, 'capture');
    this.capture.port.onmessage = ({ data }) => onFrame(data);
    this.capture.connect(context.destination); // silent; a node that leads nowhere does not run
    this.microphone = null; // {stream, source}
    this.opening = null; // while the browser asks the visitor for the microphone
    this.isClosed = false;
    this.gate = context.createGain();
    this.gate.connect(this.capture);
    this.isMuted = false;
    this.needsHold = false; // push-to-talk
    this.isTalkHeld = false;
    this.playing = new Set();
    // While one of them plays, the microphone would hear it a second time.
    this.insteadOfMicrophone = { recording: null, replay: null };
    this.updateGate();
  }

  get hasMicrophone() {
    return this.microphone !== null;
  }

  /** Whether the microphone's own switch or the system has silenced it. */
  get isSilenced() {
    return this.microphone?.stream.getTracks().some(({ muted }) => muted) ?? false;
  }

  /** Whether anything is heard that does not come from the microphone. */
  get isPlaying() {
    return [...this.playing].some(({ isHeard }) => isHeard);
  }

  get isMicrophoneWanted() {
    return this.isTalkHeld || (!this.isMuted && !this.needsHold);
  }

  /** Asking again while the visitor is being asked waits for the same answer. */
  openMicrophone(settings) {
    this.opening ??= this.askForMicrophone(settings).finally(() => {
      this.opening = null;
    });
    return this.opening;
  }

  /** With other settings; some browsers cannot have one device open with both. */
  async reopenMicrophone(settings) {
    await this.opening;
    if (!this.hasMicrophone) return;
    this.closeMicrophone();
    await this.openMicrophone(settings);
  }

  async askForMicrophone(settings) {
    const stream = await streamOf(microphoneWanted(settings));
    if (this.isClosed) return stream.getTracks().forEach((track) => track.stop()); // stopped meanwhile
    for (const track of stream.getTracks()) {
      track.onended = () => {
        this.closeMicrophone();
        this.onMicrophoneLost();
      };
    }
    const source = this.context.createMediaStreamSource(stream);
    source.connect(this.gate);
    this.microphone = { stream, source };
  }

  closeMicrophone() {
    if (this.microphone === null) return;
    const { stream, source } = this.microphone;
    this.microphone = null;
    source.disconnect();
    stream.getTracks().forEach((track) => track.stop());
  }

  setMuted(isMuted) {
    this.isMuted = isMuted;
    this.updateGate();
  }

  setPushToTalk(needsHold) {
    this.needsHold = needsHold;
    this.updateGate();
  }

  holdToTalk(isHeld) {
    this.isTalkHeld = isHeld;
    this.updateGate();
  }

  /**
   * Play a recording instead of the microphone; resolves when it has ended or was stopped, as
   * `signal` does.
   */
  async playRecording(encoded, signal) {
    const buffer = await this.decode(encoded);
    if (buffer === null) return;
    await this.play(this.bufferPlayer(buffer), { isHeard: true, as: 'recording', signal });
  }

  /** Mix a sound into what the microphone hears; resolves when it has ended or was stopped. */
  async playSound(encoded, signal) {
    const buffer = await this.decode(encoded);
    if (buffer !== null) await this.play(this.bufferPlayer(buffer), { isHeard: true, signal });
  }

  /** Play captured Int16 samples again, to the visitor alone; nothing is heard meanwhile. */
  async playAgain(pcm) {
    const samples = Float32Array.from(pcm, (value) => value / 32768);
    const player = this.bufferPlayer(this.bufferOf(samples));
    await this.play(player, { isHeard: false, as: 'replay' });
  }

  /** Play samples at 16 kHz to the room, at a time of the context's; the microphone stays open. */
  async playToRoom(samples, when) {
    await this.play(this.bufferPlayer(this.bufferOf(samples), when), { isHeard: false });
  }

  /**
   * Play a file at normal speed instead of the microphone, however long it is: the browser decodes
   * it on the way. `onProgress` gets 0 to 1. Resolves when it has ended or was stopped.
   */
  async playFile(file, onProgress) {
    const element = new Audio();
    element.src = URL.createObjectURL(file);
    element.ontimeupdate = () => onProgress(element.currentTime / element.duration || 0);
    const player = {
      node: this.context.createMediaElementSource(element),
      start: (onEnded, onFailed) => {
        element.onended = onEnded;
        element.onerror = () => onFailed(new RecordingError(element.error.message));
        element.play().catch(() => {}); // what it cannot play, `onerror` tells
      },
      stop: () => {
        element.onended = element.onerror = element.ontimeupdate = null;
        element.pause();
        URL.revokeObjectURL(element.src);
      },
    };
    await this.play(player, { isHeard: true, as: 'recording' });
  }

  /** Hear another tab of the browser, which the visitor chooses; it is heard where it plays. */
  async playTab(signal) {
    const stream = await tabSound();
    const [track] = stream.getAudioTracks();
    const player = {
      node: this.context.createMediaStreamSource(stream),
      start: (onEnded) => {
        track.onended = onEnded;
      },
      stop: () => {
        track.onended = null;
        stream.getTracks().forEach((one) => one.stop());
      },
    };
    await this.play(player, { isHeard: true, isPlayed: false, signal });
  }

  /** Null where the conversation was stopped meanwhile: nothing ever ends on a closed context. */
  async decode(encoded) {
    if (this.isClosed) return null;
    try {
      const buffer = await this.context.decodeAudioData(encoded);
      return this.isClosed ? null : buffer;
    } catch (error) {
      if (this.isClosed) return null;
      throw new RecordingError(error.message);
    }
  }

  bufferOf(samples) {
    const buffer = this.context.createBuffer(1, samples.length, SAMPLE_RATE);
    buffer.copyToChannel(samples, 0);
    return buffer;
  }

  bufferPlayer(buffer, when = 0) {
    const node = this.context.createBufferSource();
    node.buffer = buffer;
    return {
      node,
      start: (onEnded) => {
        node.onended = onEnded;
        node.start(when);
      },
      stop: () => {
        node.onended = null; // a closed context would never call it
        node.stop();
      },
    };
  }

  /**
   * Resolves when it has ended or was stopped. `as` names what it plays instead of the microphone;
   * `isPlayed` is whether the visitor hears it from here.
   */
  async play(player, { isHeard, isPlayed = true, as = null, signal = null }) {
    if (signal?.aborted) return;
    const instead = this.insteadOfMicrophone;
    if (as !== null) instead[as]?.stop();
    await new Promise((resolve, reject) => {
      const playing = {
        isHeard,
        stop: () => {
          player.stop();
          player.node.disconnect();
          this.playing.delete(playing);
          if (as !== null) instead[as] = null;
          this.updateGate();
          resolve();
        },
      };
      this.playing.add(playing);
      signal?.addEventListener('abort', playing.stop, { once: true });
      if (as !== null) instead[as] = playing;
      this.updateGate();
      if (isHeard) player.node.connect(this.capture);
      if (isPlayed) player.node.connect(this.context.destination);
      player.start(playing.stop, (error) => {
        reject(error);
        playing.stop();
      });
    });
  }

  stopPlaying() {
    for (const playing of [...this.playing]) playing.stop();
  }

  close() {
    this.isClosed = true;
    this.capture.port.onmessage = null;
    this.stopPlaying();
    this.closeMicrophone();
    this.gate.disconnect();
    this.capture.disconnect();
  }

  updateGate() {
    const { recording, replay } = this.insteadOfMicrophone;
    const isOpen = this.isMicrophoneWanted && recording === null && replay === null;
    this.gate.gain.setTargetAtTime(isOpen ? 1 : 0, this.context.currentTime, GATE_SECONDS / 3);
  }
}
