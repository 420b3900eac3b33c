// What the model hears: the microphone or a recording, through one graph and one worklet.

const MICROPHONE = {
  // Suppression and gain control would hide the very sounds the model listens for.
  audio: { echoCancellation: true, noiseSuppression: false, autoGainControl: false },
};

export class AudioInput {
  /** Call from a click: browsers allow sound only then. `onFrame` gets {pcm, level, peak}. */
  static async open({ onFrame, onMicrophoneLost }) {
    const context = new AudioContext();
    try {
      await context.resume();
      await context.audioWorklet.addModule(new URL('./capture-worklet.js', import.meta.url));
    } catch (error) {
      await context.close();
      throw error;
    }
    return new AudioInput(context, onFrame, onMicrophoneLost);
  }

  constructor(context, onFrame, onMicrophoneLost) {
    this.context = context;
    this.onMicrophoneLost = onMicrophoneLost;
    this.capture = new AudioWorkletNode(context, 'capture');
    this.capture.port.onmessage = ({ data }) => onFrame(data);
    this.capture.connect(context.destination); // silent; a node that leads nowhere does not run
    this.stream = null;
    this.opening = null; // while the browser asks the visitor for the microphone
    this.isClosed = false;
    this.gate = context.createGain();
    this.gate.connect(this.capture);
    this.isMuted = false;
    this.recording = null;
  }

  get hasMicrophone() {
    return this.stream !== null;
  }

  /** Asking again while the visitor is being asked waits for the same answer. */
  openMicrophone() {
    this.opening ??= this.askForMicrophone().finally(() => {
      this.opening = null;
    });
    return this.opening;
  }

  async askForMicrophone() {
    const stream = await navigator.mediaDevices.getUserMedia(MICROPHONE);
    this.stream = stream;
    if (this.isClosed) return this.stopMicrophone(); // stopped meanwhile
    for (const track of stream.getTracks()) track.onended = () => this.onMicrophoneLost();
    this.context.createMediaStreamSource(this.stream).connect(this.gate);
  }

  setMuted(isMuted) {
    this.isMuted = isMuted;
    this.updateGate();
  }

  /** Play encoded audio to the model and to the room; resolves when it has ended. */
  async play(encoded) {
    if (this.isClosed) return;
    const buffer = await this.context.decodeAudioData(encoded);
    if (this.isClosed) return; // nothing would ever end on a closed context
    this.stopRecording();
    await new Promise((onEnded) => {
      const source = this.context.createBufferSource();
      source.buffer = buffer;
      source.connect(this.capture);
      source.connect(this.context.destination);
      source.onended = () => this.stopRecording();
      source.start();
      this.recording = { source, onEnded };
      this.updateGate();
    });
  }

  stopRecording() {
    if (this.recording === null) return;
    const { source, onEnded } = this.recording;
    this.recording = null;
    source.onended = null; // a closed context would never call it
    source.stop();
    source.disconnect();
    this.updateGate();
    onEnded();
  }

  async close() {
    this.isClosed = true;
    this.capture.port.onmessage = null;
    this.stopRecording();
    this.stopMicrophone();
    if (this.context.state !== 'closed') await this.context.close();
  }

  stopMicrophone() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
  }

  updateGate() {
    // While a recording plays, the microphone would hear it a second time.
    this.gate.gain.value = this.isMuted || this.recording !== null ? 0 : 1;
  }
}
