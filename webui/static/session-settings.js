// A visitor's settings as the server's `session`.

import { PLAYBACK_RATE } from './audio-format.js';

/** The settings whose change concerns the server. */
export const SESSION_SETTINGS = [
  'speakReplies',
  'voice',
  'decisionBias',
  'temperature',
  'topK',
  'longestReply',
];

/**
 * Everything, for a conversation in which nothing was heard yet: then the prompt and the seed are
 * fixed. What the visitor leaves to the model is as in `defaults`, the session as the server made it.
 */
export function openingSession(settings, defaults) {
  const { instructions, seed } = settings;
  return {
    ...ongoingSession(settings, defaults),
    ...(instructions !== null && { instructions }),
    ...(seed !== null && { seed }),
  };
}

/** What may change while a conversation goes on. */
export function ongoingSession(settings, defaults) {
  return {
    type: 'realtime',
    output_modalities: [settings.speakReplies ? 'audio' : 'text'],
    audio: {
      output: { format: { type: 'audio/pcm', rate: PLAYBACK_RATE }, voice: settings.voice },
    },
    decision_bias: settings.decisionBias,
    temperature: settings.temperature ?? defaults.temperature,
    top_k: settings.topK ?? defaults.top_k,
    max_output_tokens: settings.longestReply ?? defaults.max_output_tokens,
  };
}
