// A dialog of the page.

/** Let a dialog be closed by its button and by a click beside it; Escape the browser does. */
export function closable(dialog, button) {
  button.addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close();
  });
}
