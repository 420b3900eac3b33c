// Numbers as the page writes them.

import { language, message } from './messages.js';

export function milliseconds(value) {
  return `${Math.round(value)} ms`;
}

/** {p50, p95} in words; empty where there is none. */
export function latencies(both) {
  if (both === null) return '';
  const [p50, p95] = [both.p50, both.p95].map((value) => value !== null && milliseconds(value));
  return p95 ? message('latency.both', { p50, p95 }) : message('latency.p50', { p50 });
}

export function seconds(value) {
  return `${value.toFixed(1)} s`;
}

export function percent(fraction) {
  return `${Math.round(100 * fraction)} %`;
}

export function count(number) {
  return new Intl.NumberFormat(language()).format(number);
}

/** 75.4 is 1:15; with one decimal 1:15.4. */
export function clockTime(time, decimals = 0) {
  const scale = 10 ** decimals;
  const whole = Math.floor(time * scale + 1e-6) / scale;
  const width = decimals === 0 ? 2 : 3 + decimals;
  return `${Math.floor(whole / 60)}:${(whole % 60).toFixed(decimals).padStart(width, '0')}`;
}

/** A moment as people write it: the server's text or a Date. */
export function dateTime(moment) {
  const format = new Intl.DateTimeFormat(language(), { dateStyle: 'medium', timeStyle: 'short' });
  return format.format(new Date(moment));
}

/** Hours and minutes of a Date. */
export function timeOfDay(moment) {
  return new Intl.DateTimeFormat(language(), { timeStyle: 'short' }).format(moment);
}

/** The size of a file. */
export function size(bytes) {
  if (bytes < 1e6) return `${Math.ceil(bytes / 1e3)} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}
