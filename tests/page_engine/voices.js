// In the place of a browser's voices, which a headless one has not: `said` lists what is to be said. It
// goes on until it is cancelled.

globalThis.said = [];

globalThis.SpeechSynthesisUtterance = class {
  constructor(text) {
    this.text = text;
  }
};

Object.defineProperty(globalThis, 'speechSynthesis', {
  value: {
    saying: null,
    get isSilent() {
      return this.saying === null;
    },
    getVoices: () => [
      { name: 'far away', lang: 'en-US', localService: false },
      { name: 'near by', lang: 'en-US', localService: true },
    ],
    speak(utterance) {
      this.saying = utterance;
      said.push({ text: utterance.text, isLocal: utterance.voice.localService });
      utterance.onstart();
    },
    cancel() {
      const { saying } = this;
      this.saying = null;
      saying?.onend();
    },
    pause() {},
    resume() {},
  },
});
