// The model's turn protocol; see backend/protocol.py.
//
// listening   AUDIO_BEGIN PAD*10 ASSISTANT -> KEEP_SILENCE | TEXT_BEGIN
// speaking    [EMOTION] <text tokens> TEXT_END

/** In the place of a token: a feature is heard there. */
export const FEATURE = -1;

/** Where a session stands between two sampled tokens. */
export const State = Object.freeze({
  LISTENING: 'listening',
  OPENING: 'opening', // TEXT_BEGIN was drawn; an emotion may follow, or the text starts
  SPEAKING: 'speaking',
});

/** What a drawn token means to the listener. */
export const Effect = Object.freeze({
  STAY_SILENT: 'stay_silent',
  OPEN_TURN: 'open_turn',
  NAME_EMOTION: 'name_emotion',
  ADD_TEXT: 'add_text',
  PASS_OVER: 'pass_over',
  CLOSE_TURN: 'close_turn',
});

export class Protocol {
  constructor({ control_tokens: control, emotions, features_per_chunk: numFeatures }) {
    this.control = control;
    this.all = new Set(Object.values(control));
    this.emotions = new Map(emotions.map((emotion) => [control[emotion], emotion]));
    this.numFeatures = numFeatures;
  }

  /** The emotion that `token` names, or null. */
  emotionOf(token) {
    return this.emotions.get(token) ?? null;
  }

  /** The next state and the effect of a token; at a decision it is one of the two that may be. */
  advance(state, token) {
    const { control } = this;
    if (state === State.LISTENING) {
      return token === control.text_begin
        ? [State.OPENING, Effect.OPEN_TURN]
        : [State.LISTENING, Effect.STAY_SILENT];
    }
    if (token === control.text_end) return [State.LISTENING, Effect.CLOSE_TURN];
    if (state === State.OPENING && this.emotions.has(token)) {
      return [State.SPEAKING, Effect.NAME_EMOTION];
    }
    return [State.SPEAKING, this.all.has(token) ? Effect.PASS_OVER : Effect.ADD_TEXT];
  }

  /** What opens a session; SYSTEM shares its id with TEXT_BEGIN. */
  prefix(promptTokens) {
    const { online, english, text_begin: begin, text_end: end } = this.control;
    return [online, english, begin, begin, ...promptTokens, end];
  }

  /** What a chunk adds before its decision: `FEATURE` where its features go. */
  chunkTokens() {
    const { audio_begin: begin, assistant } = this.control;
    return [begin, ...Array(this.numFeatures).fill(FEATURE), assistant];
  }
}
