// Chinese (simplified). The same keys as in messages-en.js; tests/test_page_looks.py compares them.

export const CHINESE = {
  // 状态
  'state.idle': '未开始',
  'state.connecting': '正在连接',
  'state.queued': '排队中',
  'state.listening': '正在听',
  'state.speaking': '正在说',
  'state.catching_up': '正在追赶',
  'state.reconnecting': '正在重连',
};
