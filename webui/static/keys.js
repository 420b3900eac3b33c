// Space to talk and Escape to stop, without taking either from what has the focus.

// These do something of their own with the space bar.
const USES_SPACE = 'button, input, textarea, select, a[href], summary, dialog, [contenteditable]';

function isFree(target) {
  return !(target instanceof Element && target.closest(USES_SPACE) !== null);
}

export class Keys {
  /** `onHold` gets true and false; `onEscape` is called where nothing else is to be closed. */
  constructor(hold, { onHold, onEscape }) {
    this.hold = hold;
    this.onHold = onHold;
    this.isHeld = false;
    document.addEventListener('keydown', (event) => this.down(event, onEscape));
    document.addEventListener('keyup', ({ key }) => {
      if (key === ' ' || key === 'Enter') this.setHeld(false);
    });
    // A key that is let go in another window is never reported.
    window.addEventListener('blur', () => this.setHeld(false));
    hold.addEventListener('pointerdown', (event) => {
      if (event.button !== 0) return;
      hold.setPointerCapture(event.pointerId);
      this.setHeld(true);
    });
    for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) {
      hold.addEventListener(end, () => this.setHeld(false));
    }
    hold.addEventListener('contextmenu', (event) => event.preventDefault()); // a long touch
    // After a click the button keeps the focus, and the space bar would press it again.
    document.addEventListener('click', ({ detail }) => {
      const focused = document.activeElement;
      if (detail > 0 && focused?.matches('button') && !focused.closest('dialog')) focused.blur();
    });
  }

  down(event, onEscape) {
    if (event.isComposing) return; // keys are an input method's, whose candidates Escape closes
    if (event.key === 'Escape') {
      onEscape(event);
      return;
    }
    const isOnHold = event.target === this.hold && (event.key === ' ' || event.key === 'Enter');
    if (!isOnHold && !(event.key === ' ' && isFree(event.target))) return;
    event.preventDefault(); // no scrolling, no click
    if (!event.repeat) this.setHeld(true);
  }

  setHeld(isHeld) {
    if (isHeld === this.isHeld || (isHeld && this.hold.disabled)) return;
    this.isHeld = isHeld;
    this.hold.toggleAttribute('data-held', isHeld);
    this.onHold(isHeld);
  }
}
