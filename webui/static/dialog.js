// A dialog of the page: markup has what is its own, and its title's message as data-heading.

import { button, element } from './element.js';
import { translate } from './translate.js';

/**
 * Give a dialog its head, which is returned, and let it be closed there and by a click beside it;
 * Escape the browser does.
 */
export function frame(dialog) {
  const { heading } = dialog.dataset;
  const title = element('h2');
  title.id = heading.replace('.', '-');
  title.dataset.text = heading;
  const close = button('', () => dialog.close());
  close.dataset.text = 'close';
  const head = element('div');
  head.className = 'dialog-head';
  head.append(title, close);
  translate(head);
  dialog.prepend(head);
  dialog.setAttribute('aria-labelledby', title.id);
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close();
  });
  return head;
}
