// The fields of the settings, section by section: what each sets, and how it is written.

/** A key is shown when a conversation begins. */
export const NEEDS_RESTART = ['accessKey'];

export const SECTIONS = [
  {
    title: 'section.voice',
    fields: [
      { name: 'speakReplies', kind: 'switch' },
      { name: 'voice', kind: 'voices', isOfServer: true },
      { name: 'outputDevice', kind: 'devices', direction: 'outputs' },
    ],
  },
  {
    title: 'section.microphone',
    fields: [
      { name: 'inputDevice', kind: 'devices', direction: 'inputs' },
      { name: 'pushToTalk', kind: 'switch' },
      { name: 'echoCancellation', kind: 'switch' },
      { name: 'noiseSuppression', kind: 'switch' },
      { name: 'autoGainControl', kind: 'switch' },
      { name: 'echoCheck', kind: 'echoCheck' },
    ],
  },
  {
    title: 'section.model',
    fields: [
      { name: 'instructions', kind: 'text' },
      { name: 'temperature', kind: 'number', min: 0, max: 2, step: 0.05 },
      { name: 'topK', kind: 'number', min: 1, max: 1000, step: 1 },
      { name: 'longestReply', kind: 'number', min: 1, max: 4096, step: 1 },
      { name: 'seed', kind: 'number', min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 },
    ],
  },
  {
    title: 'section.page',
    fields: [
      { name: 'language', kind: 'languages' },
      { name: 'notify', kind: 'switch' },
      { name: 'accessKey', kind: 'secret', isOfServer: true },
    ],
  },
];
