// A notification of the browser, where the visitor wants one and the page is out of sight.

const TITLE = 'Audio-Interaction Live';

/** Resolves to whether there may be any. */
export async function mayNotify() {
  if (!('Notification' in window)) return false;
  return (await Notification.requestPermission()) === 'granted';
}

/** Say what it has said by itself; a click leads to the page. */
export function notify(text) {
  if (!('Notification' in window) || Notification.permission !== 'granted') return;
  const shown = new Notification(TITLE, { body: text, tag: TITLE });
  shown.addEventListener('click', () => window.focus());
}
