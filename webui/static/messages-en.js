// English. The same keys as in messages-zh.js; tests/test_page_looks.py compares them.

export const ENGLISH = {
  // State
  'state.idle': 'NOT STARTED',
  'state.connecting': 'CONNECTING',
  'state.queued': 'QUEUED',
  'state.listening': 'LISTENING',
  'state.speaking': 'SPEAKING',
  'state.catching_up': 'CATCHING UP',
  'state.reconnecting': 'RECONNECTING',
};
