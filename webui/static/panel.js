// The page's parts: shows what it is told, decides nothing.

import { AbilityList } from './abilities.js';
import { Face } from './face.js';
import { Strip } from './strip.js';
import { Turns } from './turns.js';

const STATE_WORDS = {
  idle: 'NOT STARTED',
  connecting: 'CONNECTING',
  listening: 'LISTENING',
  speaking: 'SPEAKING',
};

function levelToRing(level) {
  const decibels = 20 * Math.log10(Math.max(level, 1e-4));
  return Math.max(0, Math.min(1, (decibels + 60) / 50));
}

function figure(label, milliseconds) {
  const span = document.createElement('span');
  const value = document.createElement('b');
  value.textContent = `${Math.round(milliseconds)} ms`;
  span.append(`${label} `, value);
  return span;
}

export class Panel {
  constructor(root) {
    this.parts = {};
    for (const part of root.querySelectorAll('[data-part]')) this.parts[part.dataset.part] = part;
    this.face = new Face(this.parts.face);
    this.strip = new Strip(this.parts.strip);
    this.turns = new Turns(this.parts.turns, this.parts.empty);
    this.abilities = new AbilityList(this.parts);
    this.stateLine = this.parts.state.parentElement;
    this.replyLine = this.parts.reply.parentElement;
  }

  showState(state, emotion) {
    this.stateLine.dataset.state = state;
    this.parts.state.textContent = STATE_WORDS[state];
    this.parts.caret.hidden = state !== 'speaking';
    this.showEmotion(emotion);
    this.face.show(state, emotion);
    if (state === 'speaking') this.face.fillRing(1);
    if (state === 'idle' || state === 'connecting') this.face.fillRing(0);
  }

  showEmotion(emotion) {
    this.parts.emotion.textContent = emotion ?? '';
    if (emotion) this.parts.emotion.dataset.emotion = emotion;
    else delete this.parts.emotion.dataset.emotion;
  }

  showLevel(level) {
    this.face.fillRing(levelToRing(level));
  }

  showHint(text) {
    this.replyLine.dataset.kind = 'hint';
    this.parts.reply.textContent = text;
    this.parts.latency.replaceChildren();
  }

  showReply(turn, medianMs) {
    this.replyLine.dataset.kind = 'reply';
    this.parts.reply.textContent = turn.text;
    this.replyLine.scrollTop = this.replyLine.scrollHeight;
    const figures = [['decided in', turn.decisionMs]];
    if (turn.firstTextMs !== null) figures.push(['first text', turn.firstTextMs]);
    if (turn.doneMs !== null) figures.push(['finished', turn.doneMs]);
    if (medianMs !== null) figures.push(['median', medianMs]);
    this.parts.latency.replaceChildren(...figures.map(([label, time]) => figure(label, time)));
    this.turns.show(turn);
  }

  showModel(text, ability) {
    this.parts.model.textContent = text;
    this.parts.model.hidden = false;
    this.parts.ability.textContent = ability;
  }

  showPace(milliseconds) {
    this.parts.pace.textContent = `${milliseconds.toFixed(0)} ms per 0.4 s`;
    this.parts.pace.hidden = false;
  }

  showBehind(seconds) {
    this.parts.behind.hidden = seconds === 0;
    this.parts.behind.textContent = `catching up, ${seconds.toFixed(1)} s behind`;
  }

  showRunning(isRunning) {
    this.parts.start.textContent = isRunning ? 'Stop' : 'Start listening';
    this.parts.microphone.hidden = !isRunning;
  }

  showMicrophone(hasMicrophone, isMuted) {
    this.parts.microphone.textContent = hasMicrophone ? 'Mute' : 'Use the microphone';
    if (hasMicrophone) this.parts.microphone.setAttribute('aria-pressed', isMuted);
    else this.parts.microphone.removeAttribute('aria-pressed');
  }

  showSamples(samples, creditLine, onPlay) {
    const buttons = samples.map((sample) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = sample.title;
      button.title = `${sample.source} (${sample.licence})`;
      button.addEventListener('click', () => onPlay(sample, button));
      return button;
    });
    this.parts.samples.replaceChildren(...buttons);
    this.parts.credits.textContent = creditLine;
  }

  showProblem(text) {
    this.parts.alert.hidden = text === null;
    this.parts.alert.textContent = text ?? '';
  }

  announce(text) {
    this.parts.announcer.textContent = text;
  }
}
