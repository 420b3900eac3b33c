// Icons, drawn: a few strokes each on a field of 24 by 24.

const STROKES = {
  // What the page does
  close: 'M6 6l12 12M18 6L6 18',
  plus: 'M12 6v12M6 12h12',
  minus: 'M6 12h12',
  send: 'M4 12l16-7-5 15-4-6zM11 14l4-4',
  stop: 'M7 7h10v10H7z',
  microphone: 'M12 3a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0V6a3 3 0 0 1 3-3zM5 11a7 7 0 0 0 14 0M12 18v3',
  muted: 'M9 5a3 3 0 0 1 6 1v5M9 9v2a3 3 0 0 0 4.5 2.6M5 11a7 7 0 0 0 11 5.7M19 11a7 7 0 0 1-.6 2.8M12 18v3M4 3l16 18',
  hand: 'M8 12V6a1.5 1.5 0 0 1 3 0v5-7a1.5 1.5 0 0 1 3 0v7-5a1.5 1.5 0 0 1 3 0v8a6 6 0 0 1-6 7c-3 0-4-1-7-6-1-2 1-3 2-2z',
  hush: 'M4 9.5v5h3.5L12 18V6L7.5 9.5zM16 9.5l5 5M21 9.5l-5 5',
  voice: 'M4 9.5v5h3.5L12 18V6L7.5 9.5zM15.5 9a4 4 0 0 1 0 6M18 6.5a8 8 0 0 1 0 11',
  silent: 'M5 5h14v10h-8l-4 4v-4H5zM8.5 9h7M8.5 11.5h4',
  tab: 'M4 7h6l1.5 3H20v9H4zM12 4h5l1 3M9.5 13v3M12 12v5M14.5 13v3',
  file: 'M12 16V4M7.5 8.5L12 4l4.5 4.5M5 15v4h14v-4',
  // What can be played into it
  dog: 'M8 6C6 5 4 6 3.5 8L3 13c0 1.5 2 1.5 2.5 0L7 9M16 6c2-1 4 0 4.5 2l.5 5c0 1.5-2 1.5-2.5 0L17 9M8 6c2.5-1 5.5-1 8 0M6.5 11c0 5 1.5 9 5.5 9s5.5-4 5.5-9M9.5 11.5v.5M14.5 11.5v.5M10.5 15h3L12 16.5zM12 16.5V18',
  alarm: 'M12 4a6 6 0 0 1 6 6v4l2 3H4l2-3v-4a6 6 0 0 1 6-6zM10 20h4M12 2v2M2.5 8.5l2-2M21.5 8.5l-2-2',
  baby: 'M12 4.5a7.5 7.5 0 1 0 .1 0M12 4.5c-1-2 1.5-3 2-1.5M8 11q1.3-1.5 2.6 0M13.4 11q1.3-1.5 2.6 0M9.5 17q2.5-4 5 0zM7.5 13.5v1.5M16.5 13.5v1.5',
  sneeze: 'M9 4a5 5 0 0 1 5 5l1.5 3H14v2a2 2 0 0 1-2 2h-2v4M5 20v-6a5 5 0 0 1 0-8M17.5 15h1M20 13.5h1M17.5 18l1 .5M20.5 16.5l1 .5',
  saw: 'M3 10h7v7H5a2 2 0 0 1-2-2zM10 11h10l2 2.5-2 2.5H10M13 11v-1.5M16 11v-1.5M19 11v-1.5M13 17.5V16M16 17.5V16M5 10V7h5',
  fire: 'M12 3c1 4 6 6 6 11a6 6 0 0 1-12 0c0-2 1-3 2-4 0 2 1 3 2 3 1-3-1-6 2-10zM12 20a2.5 2.5 0 0 1-1-4.5c1 1 2 1 2.5 2.5',
  rain: 'M7 14a4 4 0 1 1 1-7.5 5 5 0 0 1 9 2 3 3 0 0 1 0 5.5zM8 17l-1 3M12.5 17l-1 3M17 17l-1 3',
  rooster: 'M14 8a3 3 0 1 1 4 2.5c1 6-3 9.5-7.5 9.5S4 17 4 11c2 3 5 3.5 7 2 2-1 3-3 3-5zM15 5l1-2 1.5 1.5L19 4v2M19.5 8l2 .8-2 .9M16.8 7.5v.3M10 20v2M13 20v2',
  cup: 'M7 8h10l-1.3 12H8.3zM6 8l1-3h10l1 3M7.7 13h8.6',
  glass: 'M8 10h8l-1 9H9zM7.5 10l.7-2h7.6l.7 2M14 8l2-4',
  mug: 'M5 9h11v7a4 4 0 0 1-4 4H9a4 4 0 0 1-4-4zM16 11h2a2.5 2.5 0 0 1 0 5h-2M8 3c-1 1.5 1 2 0 3.5M12 3c-1 1.5 1 2 0 3.5',
  name: 'M5 5h14v10h-8l-4 4v-4H5zM9 10v.5M12 10v.5M15 10v.5',
  five: 'M15 6h-5l-.6 5.5c3.6-1.5 6.6.4 6.1 3.5s-4 4-6.5 2',
  seven: 'M8.5 6h7L11 18',
  eight: 'M12 11.5a3 2.8 0 1 1 .1 0a3.5 3.3 0 1 1-.2 0',
  note: 'M9 18V6l10-2v12M9 18a2.5 2 0 1 1-2.5-2A2.5 2 0 0 1 9 18M19 16a2.5 2 0 1 1-2.5-2A2.5 2 0 0 1 19 16',
};

/** Those that are areas rather than lines. */
const FILLED = new Set(['stop']);

// What a sample is drawn as, by its file.
const SAMPLES = {
  'dog_bark.ogg': 'dog',
  'alarm.ogg': 'alarm',
  'baby_cry.ogg': 'baby',
  'sneeze.ogg': 'sneeze',
  'chainsaw.ogg': 'saw',
  'fire.ogg': 'fire',
  'rain.ogg': 'rain',
  'rooster.ogg': 'rooster',
  'order_large_dark_roast_americano.ogg': 'cup',
  'order_small_latte_double_shot.ogg': 'glass',
  'order_large_cappuccino_whole_milk.ogg': 'mug',
  'digit_five.ogg': 'five',
  'digit_seven.ogg': 'seven',
  'digit_eight.ogg': 'eight',
  'wake_word_jarvis.ogg': 'name',
};
const NAMESPACE = 'http://www.w3.org/2000/svg';

export function icon(name) {
  const drawing = document.createElementNS(NAMESPACE, 'svg');
  drawing.setAttribute('viewBox', '0 0 24 24');
  drawing.setAttribute('class', FILLED.has(name) ? 'icon filled' : 'icon');
  drawing.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(NAMESPACE, 'path');
  path.setAttribute('d', STROKES[name]);
  drawing.append(path);
  return drawing;
}

/** Of a sample; one that has no drawing of its own is a note, or a name where it is a voice. */
export function sampleIcon({ file, kind }) {
  return icon(SAMPLES[file] ?? (kind === 'voice' ? 'name' : 'note'));
}

/** Draw what markup names by data-icon. */
export function drawIcons(root) {
  for (const place of root.querySelectorAll('[data-icon]')) place.replaceChildren(icon(place.dataset.icon));
}
