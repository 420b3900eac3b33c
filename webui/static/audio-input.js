// What the model hears: the microphone or a recording, through one graph and one worklet.

const MICROPHONE = {
  // Suppression and gain control would hide the very sounds the model listens for.
  audio: { echoCancellation: true, noiseSuppression: false, autoGainControl: false },
};

export class AudioInput {
  /** Call from a click: browsers allow sound only then. `onFrame` gets {pcm, level, peak}. */
  static async open(onFrame) {
    const context = new AudioContext();
    try {
      await context.resume();
      await context.audioWorklet.addModule(new URL('./capture-worklet.js', import.meta.url));
    } catch (error) {
      await context.close();
      throw error;
    }
    return new AudioInput(context, onFrame);
  }

  constructor(context, onFrame) {
    this.context = context;
    this.capture = new AudioWorkletNode(context, 'capture');
    this.capture.port.onmessage = ({ data }) => onFrame(data);
    this.capture.connect(context.destination); // silent; a node that leads nowhere does not run
    this.stream = null;
    this.gate = context.createGain();
    this.gate.connect(this.capture);
    this.isMuted = false;
    this.recording = null;
  }

  get hasMicrophone() {
    return this.stream !== null;
  }

  async openMicrophone() {
    this.stream = await navigator.mediaDevices.getUserMedia(MICROPHONE);
    if (this.context.state === 'closed') return this.stopMicrophone();
    this.context.createMediaStreamSource(this.stream).connect(this.gate);
  }

  setMuted(isMuted) {
    this.isMuted = isMuted;
    this.updateGate();
  }

  /** Play encoded audio to the model and to the room; resolves when it has ended. */
  async play(encoded) {
    const buffer = await this.context.decodeAudioData(encoded);
    this.stopRecording();
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.capture);
    source.connect(this.context.destination);
    this.recording = source;
    this.updateGate();
    await new Promise((resolve) => {
      source.onended = resolve;
      source.start();
    });
    if (this.recording === source) this.stopRecording();
  }

  stopRecording() {
    if (this.recording === null) return;
    this.recording.stop();
    this.recording.disconnect();
    this.recording = null;
    this.updateGate();
  }

  async close() {
    this.capture.port.onmessage = null;
    this.stopRecording();
    this.stopMicrophone();
    await this.context.close();
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
