// A visitor's settings as the server's `session`.

import { PLAYBACK_RATE } from './audio-format.js';

/** The settings whose change concerns the server. */
export const SESSION_SETTINGS = [
  'speakReplies',
  'voice',
  'decisionBias',
  'instructions',
  'temperature',
  'topK',
  'seed',
  'longestReply',
];

/** What the visitor leaves to the model is as in `defaults`, the session as the server made it. */
export function sessionOf(settings, defaults) {
  return {
    type: 'realtime',
    output_modalities: [settings.speakReplies ? 'audio' : 'text'],
    audio: {
      input: { transcription: {} }, // what is heard is told, where anything writes it down
      output: { format: { type: 'audio/pcm', rate: PLAYBACK_RATE }, voice: settings.voice },
    },
    decision_bias: settings.decisionBias,
    instructions: settings.instructions ?? defaults.instructions,
    temperature: settings.temperature ?? defaults.temperature,
    top_k: settings.topK ?? defaults.top_k,
    seed: settings.seed ?? defaults.seed,
    max_output_tokens: settings.longestReply ?? defaults.max_output_tokens,
  };
}
