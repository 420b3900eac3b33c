// The settings: a dialog whose fields take effect at once.

import { frame } from './dialog.js';
import { button, element, option } from './element.js';
import { LANGUAGE_NAMES, message } from './messages.js';
import { mayNotify } from './notify.js';
import { explainError } from './problems.js';
import { credits } from './samples.js';
import { NEEDS_RESTART, SECTIONS } from './settings-fields.js';
import { settings } from './settings.js';

function group(label, options) {
  const made = element('optgroup');
  made.label = label;
  made.append(...options);
  return made;
}

export class SettingsDialog {
  /** `live` lists devices, checks for echoes and is started again; `panel` knows the voices. */
  constructor(panel, live, samples) {
    const { parts } = panel;
    Object.assign(this, { panel, live, samples, parts, dialog: parts.settings });
    this.controls = new Map(); // by setting
    this.devices = { inputs: [], outputs: [] };
    this.echo = { isRunning: false, fraction: 0, verdict: null };
    this.started = null; // the settings that the conversation began with
    parts.openSettings.addEventListener('click', () => this.open());
    parts.resetSettings.addEventListener('click', () => {
      settings.reset();
      this.build();
    });
    parts.restart.addEventListener('click', () => this.restart());
    frame(parts.settings);
    settings.onChange(() => this.update());
    panel.onVoices = () => this.fillVoices();
    navigator.mediaDevices?.addEventListener('devicechange', () => {
      if (this.dialog.open) this.listDevices();
    });
    new MutationObserver(() => this.noteStart()).observe(panel.root, {
      attributeFilter: ['data-running'],
    });
    this.build();
  }

  async open() {
    this.dialog.showModal();
    this.update();
    await this.listDevices();
  }

  async listDevices() {
    this.devices = await this.live.listDevices();
    this.fillDevices('inputDevice', this.devices.inputs);
    this.fillDevices('outputDevice', this.devices.outputs);
  }

  noteStart() {
    this.started = this.panel.isRunning ? settings.get() : null;
    this.update();
  }

  async restart() {
    this.dialog.close();
    await this.live.startOrStop();
    await this.live.startOrStop();
  }

  // Building

  /** Write the fields, in the page's language. */
  build() {
    this.controls.clear();
    const sections = SECTIONS.map(({ title, fields }) => {
      const section = element('section');
      section.append(element('h3', message(title)), ...fields.map((field) => this.field(field)));
      return section;
    });
    const about = element('section');
    const creditLine = element('p', credits(this.samples));
    creditLine.className = 'soft credits';
    about.append(element('h3', message('section.recordings')), creditLine);
    this.parts.settingsBody.replaceChildren(...sections, about);
    this.fillVoices();
    this.fillDevices('inputDevice', this.devices.inputs);
    this.fillDevices('outputDevice', this.devices.outputs);
    this.update();
  }

  field(field) {
    const row = element('div');
    row.className = field.isOfServer ? 'field of-server' : 'field';
    row.dataset.kind = field.kind;
    const help = element('p', message(`help.${field.name}`));
    help.className = 'soft';
    help.id = `help-${field.name}`;
    const control = this.control(field);
    control.setAttribute('aria-describedby', help.id);
    if (field.kind === 'echoCheck') {
      row.append(control, this.echoProgress, help, this.echoVerdict);
      return row;
    }
    control.id = `setting-${field.name}`;
    const label = element('label', message(`setting.${field.name}`));
    label.htmlFor = control.id;
    this.controls.set(field.name, { field, control });
    row.append(label, control, help);
    return row;
  }

  control(field) {
    switch (field.kind) {
      case 'switch':
        return this.switchControl(field);
      case 'number':
        return this.numberControl(field);
      case 'text':
        return this.textControl(field, element('textarea'));
      case 'secret':
        return this.secretControl(field);
      case 'echoCheck':
        return this.echoControl();
      default:
        return this.choiceControl(field);
    }
  }

  switchControl({ name }) {
    const control = button('', async () => {
      const isOn = !settings.get()[name];
      if (name === 'notify' && isOn && !(await mayNotify())) return; // the browser has been told no
      settings.set({ [name]: isOn });
    });
    control.className = 'switch';
    control.role = 'switch';
    control.append(element('i'));
    return control;
  }

  choiceControl({ name, kind }) {
    const control = element('select');
    if (kind === 'languages') {
      for (const [tag, text] of Object.entries(LANGUAGE_NAMES)) control.append(option(tag, text));
    }
    control.addEventListener('change', () => settings.set({ [name]: control.value }));
    return control;
  }

  numberControl({ name, min, max, step }) {
    const control = element('input');
    Object.assign(control, { type: 'number', min, max, step, placeholder: message('setting.models') });
    control.addEventListener('change', () => {
      const isGood = control.checkValidity();
      control.setAttribute('aria-invalid', !isGood);
      control.title = isGood ? '' : control.validationMessage;
      if (isGood) settings.set({ [name]: control.value === '' ? null : control.valueAsNumber });
    });
    return control;
  }

  textControl({ name }, control) {
    control.rows = 3;
    control.placeholder = message('setting.models');
    control.addEventListener('change', () => settings.set({ [name]: control.value.trim() || null }));
    return control;
  }

  secretControl(field) {
    const control = this.textControl(field, element('input'));
    control.type = 'password';
    control.autocomplete = 'off';
    control.placeholder = '';
    return control;
  }

  echoControl() {
    this.echoButton = button(message('echo.run'), () => this.checkEcho());
    this.echoProgress = element('progress');
    this.echoProgress.max = 1;
    this.echoProgress.setAttribute('aria-label', message('echo.progress'));
    this.echoVerdict = element('p');
    this.echoVerdict.className = 'verdict';
    this.echoVerdict.role = 'status';
    return this.echoButton;
  }

  async checkEcho() {
    this.echo = { isRunning: true, fraction: 0, verdict: null };
    this.update();
    try {
      const { verdict, echoDb, noiseDb } = await this.live.runEchoCheck((fraction) => {
        this.echo.fraction = fraction;
        this.update();
      });
      const values = { echo: Math.round(echoDb), noise: Math.round(noiseDb) };
      this.echo.verdict = () => message(`echo.${verdict}`, values);
    } catch (error) {
      this.echo.verdict = () => explainError(error);
    }
    this.echo.isRunning = false;
    this.update();
  }

  fillVoices() {
    const { control } = this.controls.get('voice');
    const voices = this.panel.voices ?? [];
    const { voice } = settings.get();
    const options = [option('auto', message('voice.auto'))];
    for (const isOnline of [false, true]) {
      const some = voices.filter(({ is_online: online }) => online === isOnline);
      if (some.length === 0) continue;
      const label = message(isOnline ? 'voice.online' : 'voice.offline');
      options.push(group(label, some.map(({ id, label: text }) => option(id, text))));
    }
    const isKnown = voice === 'auto' || voices.some(({ id }) => id === voice);
    if (!isKnown) options.push(option(voice, voice.split(':').at(-1)));
    // Which voices there are is told when a conversation begins.
    if (this.panel.voices === null) {
      const later = option('', message('voice.later'));
      later.disabled = true;
      options.push(later);
    }
    control.replaceChildren(...options);
    control.value = voice;
  }

  fillDevices(name, devices) {
    const { control } = this.controls.get(name);
    const options = devices
      .filter(({ id }) => id !== '')
      .map(({ id, label }, i) => option(id, label || message('device.number', { number: i + 1 })));
    const chosen = settings.get()[name];
    const isGone = chosen !== '' && !devices.some(({ id }) => id === chosen);
    if (isGone) options.push(option(chosen, message('device.gone')));
    control.replaceChildren(option('', message('device.default')), ...options);
    control.value = chosen;
  }

  // Keeping up

  update() {
    const values = settings.get();
    for (const [name, { field, control }] of this.controls) {
      if (field.kind === 'switch') control.setAttribute('aria-checked', values[name]);
      else if (control !== document.activeElement) control.value = values[name] ?? '';
    }
    this.echoButton.disabled = this.echo.isRunning;
    this.echoProgress.hidden = !this.echo.isRunning;
    this.echoProgress.value = this.echo.fraction;
    this.echoVerdict.textContent = this.echo.verdict?.() ?? '';
    const isWaiting =
      this.started !== null && NEEDS_RESTART.some((name) => values[name] !== this.started[name]);
    this.parts.needsRestart.textContent = isWaiting ? message('settings.needsRestart') : '';
    this.parts.restart.hidden = !isWaiting;
  }
}
