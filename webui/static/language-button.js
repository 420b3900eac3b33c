// The button that names the page's other language, and changes to it.

import { LANGUAGE_NAMES, language, onLanguage, setLanguage } from './messages.js';
import { settings } from './settings.js';

const OTHER = { en: 'zh', zh: 'en' };
const TAGS = { en: 'en', zh: 'zh-CN' };

export class LanguageButton {
  /** From now on the page is in the language of the settings. */
  constructor(button) {
    this.button = button;
    button.addEventListener('click', () => settings.set({ language: button.lang }));
    settings.onChange(({ language: name }) => setLanguage(name));
    setLanguage(settings.get().language);
    onLanguage(() => this.show());
    this.show();
  }

  show() {
    document.documentElement.lang = TAGS[language()];
    this.button.lang = OTHER[language()];
    this.button.textContent = LANGUAGE_NAMES[this.button.lang];
  }
}
